from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from unveil.core.records import Enhancement, Trial
from unveil.report import summarise
from unveil.report.conclusion import headline
from unveil.report.enhancer_gain import enhancer_gain
from unveil.report.html import render
from unveil.report.levels import Level
from unveil.report.table import print_table
from unveil.report.threat_models import threat_model_charts

MakeTrial = Callable[..., Trial]

DID = Enhancement(misfit_before=2.0, misfit_after=1.0, share=1.0)


def enhanced(
    make: MakeTrial, *, psnr: list[float], before: list[float], enhancement: Enhancement = DID, **options: Any
) -> Trial:
    """A trial with an enhancer, and what it was before."""
    return make(psnr=psnr, before=before, enhancer="mine", enhancement=enhancement, **options)


def test_the_gain_is_paired_by_picture_and_averaged_over_the_seeds(trial: MakeTrial) -> None:
    one = enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0])
    other = enhanced(trial, psnr=[27.0, 28.0], before=[24.0, 26.0], seed=1)
    found = enhancer_gain([one, other])
    assert found.before == 25.0
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(2.0)  # pictures: (1 + 3) / 2 and (2 + 2) / 2
    assert found.gain.low == found.gain.high == pytest.approx(2.0)
    assert found.misfit == 0.5


def test_no_enhancer_adds_nothing_and_says_nothing(trial: MakeTrial) -> None:
    assert summarise([trial()])[0].enhancer_gain is None


def test_an_exact_misfit_before_is_no_division_by_zero(trial: MakeTrial) -> None:
    exact = dataclasses.replace(DID, misfit_before=0.0, misfit_after=0.0)
    found = enhancer_gain([enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0], enhancement=exact)])
    assert found.misfit == 1.0


def test_what_the_attack_itself_achieved_is_a_result_of_its_own(trial: MakeTrial) -> None:
    own, row = summarise([enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0])])
    assert (own.enhancer, row.enhancer) == ("", "mine")
    assert (own.scores["psnr"].mean.mean, row.scores["psnr"].mean.mean) == (25.0, 26.5)
    assert own.enhancer_gain is None


def test_an_enhancer_that_spoils_pictures_makes_no_obfuscation_look_safer(trial: MakeTrial) -> None:
    spoilt = {"psnr": [12.0] * 8, "before": [25.0] * 8}
    rows = summarise([enhanced(trial, **spoilt), enhanced(trial, obfuscation="sign", **spoilt)])
    assert [row.verdict.level for row in rows if row.obfuscation == "sign" and not row.enhancer] == [Level.LEAKS]
    assert headline(rows).startswith("The pictures came back through the obfuscation that was tested.")
    assert "25.0 dB" in headline(rows)


def test_each_enhancer_has_a_ladder_of_its_own(trial: MakeTrial) -> None:
    rungs = ("everything known", "labels unknown")
    rows = summarise([enhanced(trial, psnr=[25.0] * 8, before=[24.0] * 8, threat_model=rung) for rung in rungs])
    assert [chart.enhancer for chart in threat_model_charts(rows)] == ["", "mine"]


def test_the_page_says_what_was_added_what_was_given_back_and_shows_what_labels_alone_give(
    trial: MakeTrial, folder: Path
) -> None:
    files = ["images/00.png", "images/01.png"]
    half = dataclasses.replace(DID, share=0.5, prior_only=files)
    page = render(folder, [enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0], enhancement=half, pictures=True)])
    assert "the enhancer adds +1.50 dB [+1.00, +2.00]" in page
    assert "0.5 times what it was before" in page
    assert "50% of the change was kept" in page
    assert "<dt>Enhancer</dt><dd>mine</dd>" in page
    assert "<dt>Enhancer</dt><dd>none (the attack alone)</dd>" in page
    assert page.count(">before the enhancer</span>") == 1
    assert "Prior only, no update" in page
    assert "drawn from its label alone" in page


def test_what_other_labels_draw_stands_below_each_obfuscation(trial: MakeTrial, folder: Path) -> None:
    def drawn(obfuscation: str, *files: int) -> Trial:
        enhancement = dataclasses.replace(DID, prior_only=[f"images/0{file}.png" for file in files])
        scores = {"psnr": [25.0, 28.0], "before": [24.0, 26.0]}
        return enhanced(trial, enhancement=enhancement, obfuscation=obfuscation, pictures=True, **scores)

    same = render(folder, [drawn("none", 0, 1), drawn("sign", 0, 1)])
    assert (same.count(">Prior only, no update<"), same.count(">prior only<")) == (1, 0)
    other = render(folder, [drawn("none", 0, 1), drawn("sign", 1, 0)])
    assert (other.count(">Prior only, no update<"), other.count(">prior only<")) == (0, 2)


def test_the_measures_are_compared_on_one_result_a_trial(trial: MakeTrial, folder: Path) -> None:
    scores = {"ssim": [0.1 * (n % 7) for n in range(40)], "correlation": [0.1 * (n % 5) for n in range(40)]}
    page = render(folder, [enhanced(trial, psnr=[20.0 + n for n in range(40)], before=[20.0] * 40, **scores)])
    assert "over all 40 reconstructions" in page


def test_the_table_names_both_results(trial: MakeTrial) -> None:
    def printed(*trials: Trial) -> str:
        text = io.StringIO()
        print_table(trials, Console(file=text, width=100))
        return text.getvalue()

    both = printed(enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0]))
    assert "demo · fedsgd · rog · no enhancer · everything known" in both
    assert "demo · fedsgd · rog · mine · everything known" in both
    assert "enhancer" not in printed(trial())


def test_a_restorer_shows_no_pictures_from_labels(trial: MakeTrial, folder: Path) -> None:
    page = render(folder, [enhanced(trial, psnr=[25.0, 28.0], before=[24.0, 26.0], pictures=True)])
    assert "Prior only" not in page
