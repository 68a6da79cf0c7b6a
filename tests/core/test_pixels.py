"""Pictures as 8-bit files hold them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import seeded
from unveil.core.pixels import blurred, eight_bit, png_of, to_bytes


def test_values_are_the_nearest_of_256_levels() -> None:
    values = torch.tensor([0.0, 0.2, 0.5, 1.0, -1.0, 2.0, float("nan"), float("inf")]).reshape(1, 1, 1, 8)
    assert to_bytes(values).flatten().tolist() == [0, 51, 128, 255, 0, 255, 128, 255]


def test_blurring_keeps_the_means_of_six_areas_a_side_and_nothing_else() -> None:
    areas = torch.rand((2, 3, 6, 6), generator=seeded(0))
    sharp = areas.repeat_interleave(4, 2).repeat_interleave(4, 3)
    pattern = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(12, 12) * 0.1  # has mean 0 in every area
    assert blurred(sharp + pattern).allclose(blurred(sharp), atol=1e-6)
    assert not blurred(sharp).allclose(sharp, atol=0.1)
    assert blurred(torch.full((1, 1, 17, 40), 0.3)).allclose(torch.full((1, 1, 17, 40), 0.3))
    assert blurred(sharp[0]).shape == (3, 24, 24)


def test_rounding_is_at_most_half_a_level_and_twice_is_once() -> None:
    images = torch.rand((2, 3, 4, 5), generator=seeded(0))
    rounded = eight_bit(images)
    assert (rounded - images).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(eight_bit(rounded), rounded)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_what_another_reader_reads(channels: int, mode: str) -> None:
    picture = torch.rand((channels, 4, 5), generator=seeded(0))
    with Image.open(io.BytesIO(png_of(picture))) as read:
        assert (read.mode, read.format) == (mode, "PNG")
        levels = np.asarray(read).reshape(4, 5, channels)
    assert np.array_equal(levels, np.rint(picture.permute(1, 2, 0).numpy() * np.float32(255)).astype(np.uint8))
