"""Re-identification: ranks that can be counted, guessing at the level of chance, galleries that are refused."""

from __future__ import annotations

import pytest
import torch

from seeds import seeded
from unveil.core.errors import UsageError
from unveil.metrics.identity import pixels, reidentification

GENERATOR = 7


def random(n: int, *, seed: int = GENERATOR) -> torch.Tensor:
    return torch.rand((n, 3, 16, 16), generator=seeded(seed))


def test_a_copy_is_picked_first_and_a_decoys_copy_is_not() -> None:
    originals, decoys = random(4), random(20, seed=1)
    rank = reidentification(decoys, pixels)["reid_rank"]
    assert rank.score(originals, originals).tolist() == [1.0] * 4
    # The decoy that it copies is nearest, and the original somewhere behind it.
    assert float(rank.score(originals, decoys[:4]).min()) >= 2


def test_brightness_and_contrast_hide_nothing() -> None:
    originals = random(4)
    rank = reidentification(random(20, seed=1), pixels)["reid_rank"]
    assert rank.score(originals, 0.3 * originals + 0.1).tolist() == [1.0] * 4


def test_ranks_and_rates_are_counted_by_hand() -> None:
    # Points on a line: the originals at 0, the decoys at 1, 2, ..., 9, what was rebuilt at 0.4, 2.2 and 7.9.
    def embed(images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, :1].double() * 10

    decoys = (torch.arange(1.0, 10.0) / 10)[:, None, None, None].expand(-1, 3, 4, 4)
    rebuilt = (torch.tensor([0.4, 2.2, 7.9]) / 10)[:, None, None, None].expand(-1, 3, 4, 4)
    metrics = reidentification(decoys, embed)
    originals = torch.zeros(3, 3, 4, 4)
    # 2.2 from the original: 1, 2, 3 and 4 are nearer. 7.9: all nine are.
    assert metrics["reid_rank"].score(originals, rebuilt).tolist() == [1.0, 5.0, 10.0]
    assert metrics["reid_top1"].score(originals, rebuilt).tolist() == [1.0, 0.0, 0.0]
    assert metrics["reid_top5"].score(originals, rebuilt).tolist() == [1.0, 1.0, 0.0]


def test_guessing_has_the_rank_of_chance_and_a_flat_picture_the_middle() -> None:
    originals, decoys = random(40), random(60, seed=1)
    metrics = reidentification(decoys, pixels)
    guesses = random(40, seed=2)
    assert float(metrics["reid_rank"].score(originals, guesses).mean()) == pytest.approx(31, abs=9)
    flat = torch.full_like(originals, 0.5)
    assert metrics["reid_rank"].score(originals, flat).tolist() == pytest.approx([31.0] * 40)
    assert float(metrics["reid_top1"].score(originals, flat).max()) == 0


def test_more_noise_means_a_worse_rank() -> None:
    originals, decoys = random(10), random(50, seed=1)
    rank = reidentification(decoys, pixels)["reid_rank"]
    noise = torch.randn(originals.shape, generator=seeded(3))
    ranks = [float(rank.score(originals, originals + sigma * noise).mean()) for sigma in (0, 3, 10, 40)]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1 < ranks[-1]


def test_galleries_that_cannot_be_used_are_one_clear_sentence() -> None:
    originals = random(3)
    with pytest.raises(UsageError, match="expected at least one decoy"):
        reidentification(originals[:0], pixels)
    gallery = torch.cat([random(2, seed=1), originals[1:2]])
    with pytest.raises(UsageError, match="decoy 2 is picture 1 of the batch, which would be in the gallery twice"):
        reidentification(gallery, pixels)["reid_top1"].score(originals, originals)
    with pytest.raises(UsageError, match=r"expected decoys of \(3, 16, 16\)"):
        reidentification(torch.rand(2, 3, 8, 8), pixels)["reid_rank"].score(originals, originals)
