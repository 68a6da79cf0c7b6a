"""The scale of PSNR in words and pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from unveil.core.pixels import BLURRED
from unveil.core.records import Trial
from unveil.metrics import PSNR
from unveil.report import summarise
from unveil.report.decibels import STEPS, along_the_scale, meaning, off_by

MakeTrial = Callable[..., Trial]


@pytest.mark.parametrize("share", [0.316, 0.1, 0.0316, 0.01])
def test_the_share_is_the_error_of_a_picture_of_that_psnr(share: float) -> None:
    """Pixels that are off by a share of the range give the PSNR that the share is said for."""
    original = torch.full((1, 3, 4, 4), 0.5)
    psnr = float(PSNR.score(original, original + share))
    assert off_by(psnr) == pytest.approx(share, rel=1e-4)


def test_the_words_have_the_shares_and_the_blind_guess(trial: MakeTrial) -> None:
    text = meaning(summarise([trial(blind=11.25)]))
    assert "at 20 dB by 10\N{NO-BREAK SPACE}%" in text
    assert "scores 11.2 dB here" in text
    assert "grey" not in meaning([])


def test_pictures_stand_at_even_distances(trial: MakeTrial) -> None:
    rows = summarise([trial(psnr=[10.0 + n for n in range(21)], pictures=True)])
    assert [step.psnr for step in along_the_scale(rows)] == [10.0, 14.0, 18.0, 22.0, 26.0, 30.0]


def test_no_picture_stands_twice(trial: MakeTrial) -> None:
    steps = along_the_scale(summarise([trial(psnr=[10.0, 10.0, 10.0, 10.0, 10.0, 30.0], pictures=True)]))
    assert len({step.picture.position for step in steps}) == len(steps) == STEPS


@pytest.mark.parametrize("psnr", [[20.0] * 8, [20.0, 30.0], [float("inf")] * 8])
def test_pictures_that_say_nothing_of_the_scale_are_left_out(trial: MakeTrial, psnr: list[float]) -> None:
    assert along_the_scale(summarise([trial(psnr=psnr, pictures=True)])) == []


def test_without_originals_there_is_no_scale_of_pictures(trial: MakeTrial) -> None:
    assert along_the_scale(summarise([trial()])) == []


def test_blurred_pictures_are_no_examples(trial: MakeTrial) -> None:
    assert along_the_scale(summarise([trial(pictures=True)]))
    assert along_the_scale(summarise([trial(pictures=True, notes=[BLURRED])])) == []
