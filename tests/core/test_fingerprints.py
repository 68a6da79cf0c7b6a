import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seeds import seeded
from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.fingerprints import fingerprints, overlap


def some(count: int, seed: int = 0) -> Tensor:
    return dead_leaves(count, (3, 64, 64), generator=seeded(seed))


def test_a_picture_is_known_again_after_resizing_and_rounding_and_in_another_light() -> None:
    images = some(12)
    seen = fingerprints(images)
    larger = F.interpolate(images, size=(128, 128), mode="bilinear", align_corners=False)
    darker = (images * 0.8 * 255).round() / 255
    for copy in (images, darker):
        assert overlap(fingerprints(copy), seen).tolist() == list(range(12))
    assert len(overlap(fingerprints(larger), seen)) >= 8  # of leaves, whose edges are all sharp


@pytest.mark.slow
def test_other_pictures_are_not_known() -> None:
    assert not len(overlap(fingerprints(some(60, seed=1)), fingerprints(some(60, seed=2))))
    assert not len(overlap(fingerprints(some(3)), torch.zeros((0, 32), dtype=torch.uint8)))


def test_flat_pictures_are_nobody() -> None:
    flat = fingerprints(torch.full((2, 3, 32, 32), 0.5))
    assert not len(overlap(flat, flat))


def test_a_line_on_black_is_known_only_as_itself() -> None:
    lines = torch.zeros(2, 3, 32, 32)
    lines[0, :, :, 3:5] = 1
    lines[1, :, 10:12, 20:30] = 1
    one, other = fingerprints(lines).split(1)
    flat = fingerprints(torch.zeros(1, 3, 32, 32))
    assert not len(overlap(one, torch.cat([flat, other])))
    assert overlap(one, torch.cat([flat, other, one])).tolist() == [0]


def test_matches_are_those_that_counting_differing_bits_one_by_one_finds() -> None:
    draw = seeded(0)
    others = torch.randint(0, 256, (40, 32), generator=draw, dtype=torch.uint8)
    some = torch.randint(0, 256, (300, 32), generator=draw, dtype=torch.uint8)  # more than are compared at once
    for row in range(0, 300, 11):  # as many differing bits as the row's place says
        some[row] = others[row % 40]
        for bit in range(row // 11):
            some[row, bit] ^= 1 << bit % 8
    numbers = [[int.from_bytes(bytes(row.tolist()), "big") for row in part] for part in (some, others)]
    nearest = [min((one ^ other).bit_count() for other in numbers[1]) for one in numbers[0]]
    assert sorted(set(nearest))[:14] == list(range(14))
    assert overlap(some, others).tolist() == [row for row, bits in enumerate(nearest) if bits <= 12]
