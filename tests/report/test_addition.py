from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from unveil.core import Enhanced, Trial
from unveil.report import summarise
from unveil.report.addition import addition
from unveil.report.html import render

MakeTrial = Callable[..., Trial]

BEFORE = Enhanced(scores={"psnr": [24.0, 26.0]}, misfit_before=2.0, misfit_after=1.0, share=1.0)


def test_the_gain_is_paired_by_picture_and_averaged_over_the_seeds(trial: MakeTrial) -> None:
    one = trial(psnr=[25.0, 28.0], enhancer="faithful", enhanced=BEFORE)
    other = trial(psnr=[27.0, 28.0], enhancer="faithful", enhanced=BEFORE, seed=1)
    found = addition([one, other])
    assert found is not None
    assert found.before == 25.0
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(2.0)  # pictures: (1 + 3) / 2 and (2 + 2) / 2
    assert found.gain.low == found.gain.high == pytest.approx(2.0)
    assert found.misfit == 0.5


def test_no_enhancer_adds_nothing_and_says_nothing(trial: MakeTrial) -> None:
    assert addition([trial()]) is None
    assert summarise([trial()])[0].addition is None


def test_an_exact_misfit_before_is_no_division_by_zero(trial: MakeTrial) -> None:
    exact = dataclasses.replace(BEFORE, misfit_before=0.0, misfit_after=0.0)
    found = addition([trial(psnr=[25.0, 28.0], enhanced=exact)])
    assert found is not None
    assert found.misfit == 1.0


def test_the_same_attack_with_and_without_an_enhancer_are_two_sections(trial: MakeTrial) -> None:
    rows = summarise([trial(psnr=[24.0, 26.0]), trial(psnr=[25.0, 28.0], enhancer="faithful", enhanced=BEFORE)])
    assert len({row.section for row in rows}) == 2


def test_the_page_says_what_was_added_what_was_given_back_and_shows_what_labels_alone_give(
    trial: MakeTrial, folder: Path
) -> None:
    files = ["images/00.png", "images/01.png"]
    half = dataclasses.replace(BEFORE, share=0.5, alone=files)
    page = render(folder, [trial(psnr=[25.0, 28.0], enhancer="mine", enhanced=half, pictures=True)])
    assert "the enhancer adds +1.50 dB [+1.00, +2.00]" in page
    assert "0.5 times what it was before" in page
    assert "50% of the change was kept" in page
    assert "<dt>Enhancer</dt><dd>mine</dd>" in page
    assert "Label alone, no update" in page
    assert "drawn from its label alone" in page


def test_a_restorer_shows_no_pictures_from_labels(trial: MakeTrial, folder: Path) -> None:
    page = render(folder, [trial(psnr=[25.0, 28.0], enhancer="faithful", enhanced=BEFORE, pictures=True)])
    assert "Label alone" not in page
