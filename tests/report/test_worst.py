"""One row an obfuscation, the worst over attacks, clients and seeds; and pictures that are judged one by one."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from fakes import with_attack
from seeds import shifted
from unveil.core.records import Trial
from unveil.report import Level, headline, print_table, summarise
from unveil.report.criteria import came_back, recognised
from unveil.report.significance import ALPHA, across_rows
from unveil.report.statistics import holm, sign_flip_test
from unveil.report.worst import has_overview, worst_rows

NOTHING = {"psnr": [11.2] * 8, "ssim": [0.1] * 8}
CONTROL = {"psnr": [9.0, 9.5, 10.0, 10.5, 9.2, 9.7, 10.2, 9.9], "ssim": [0.1] * 8, "correlation": [0.1] * 8}
MakeTrial = Callable[..., Trial]


def test_four_attacks_on_one_obfuscation_give_one_verdict_the_worst(trial: MakeTrial) -> None:
    found = {"rog": NOTHING, "dlg": {}, "idlg": {"psnr": [15.0] * 8, "ssim": [0.25] * 8}, "unveil": NOTHING}
    rows = summarise(
        [trial(attack=attack) for attack in found]
        + [trial(attack=attack, obfuscation="fp16", **scores) for attack, scores in found.items()]
    )
    assert {row.verdict.level for row in rows if not row.is_baseline} == {Level.LEAKS, Level.PARTLY, Level.NONE}
    base, row = worst_rows(rows)
    assert base.is_baseline
    assert (row.obfuscation, row.attack, row.verdict.level) == ("fp16", "dlg", Level.LEAKS)
    assert headline(rows).startswith("The pictures came back through the obfuscation that was tested. `fp16`")


def test_the_overview_is_the_first_table_and_only_where_it_says_more(trial: MakeTrial) -> None:
    one = [trial(), trial(obfuscation="fp16")]
    two = [*one, trial(attack="dlg", **NOTHING), trial(attack="dlg", obfuscation="fp16", **NOTHING)]
    assert not has_overview(summarise(one))
    assert has_overview(summarise(two))
    out = io.StringIO()
    print_table(two, Console(file=out, width=110))
    first = out.getvalue().partition("blind")[0]
    assert "each obfuscation at its worst" in first
    assert first.count("fp16") == 2  # in the headline and in the overview
    assert "NO LEAK FOUND" not in first


def test_a_picture_that_came_back_under_one_seed_came_back(trial: MakeTrial) -> None:
    lost, won = {"psnr": [9.0] * 8, "ssim": [0.1] * 8}, {"psnr": [30.0, *[9.0] * 7], "ssim": [0.9, *[0.1] * 7]}
    rows = summarise([trial(obfuscation="fp16", seed=seed, **(won if seed == 3 else lost)) for seed in range(8)])
    assert came_back(rows[0]) == 1  # its mean over the seeds, 11.6 dB, is 0.6 dB above the blind guess
    assert rows[0].verdict.level is Level.PARTLY


def test_plain_pictures_among_black_ones_are_seen_under_a_low_mean(trial: MakeTrial) -> None:
    """Two of eight pictures are plain, in the wrong brightness; the others are black, and the mean is below blind."""
    black = trial(
        obfuscation="fp16", psnr=[12.0, 12.0, *[5.0] * 6], ssim=[0.2] * 8, correlation=[0.93, 0.88, *[0.0] * 6]
    )
    row = summarise([trial(), with_attack(black, controls={"another client": CONTROL})])[1]
    assert row.scores["psnr"].mean.mean < 11.0
    assert row.verdict.level is Level.PARTLY
    assert "counted singly, 2 can be recognised whatever their brightness" in row.verdict.sentence
    alike = {**CONTROL, "correlation": [0.75] * 8}  # pictures of one kind: a stranger's reconstruction looks like them
    row = summarise([trial(), with_attack(black, controls={"another client": alike})])[1]
    assert recognised(row) == []
    assert row.verdict.level is Level.NONE


def test_one_picture_has_no_interval_and_is_asked_for_company(trial: MakeTrial) -> None:
    base = trial(psnr=[15.0], ssim=[0.25], correlation=[0.45])
    (row,) = summarise([base])
    text = " ".join([row.verdict.sentence, *row.verdict.reasons, *row.verdict.caveats])
    assert row.verdict.level is Level.INCONCLUSIVE  # 4 dB above the blind guess, and one picture
    assert "lower end" not in text
    assert "nothing tells it from chance: give the client 8 or more" in text
    (row,) = summarise([trial(psnr=[25.0], ssim=[0.8])])
    assert row.verdict.level is Level.LEAKS
    rows = summarise([trial(psnr=[25.0], ssim=[0.8]), trial(obfuscation="fp16", psnr=[25.0], ssim=[0.8])])
    assert "hides nothing measurable" not in headline(rows)


def test_below_the_blind_guess_one_metric_alone_is_no_trace_of_a_single_picture(trial: MakeTrial) -> None:
    (row,) = summarise([trial(psnr=[9.0], ssim=[0.35], correlation=[0.5])])
    assert row.verdict.level is Level.INCONCLUSIVE


def test_nothing_is_said_to_hide_nothing_where_the_baseline_found_nothing(trial: MakeTrial) -> None:
    rows = summarise([trial(**NOTHING), trial(obfuscation="fp16", psnr=[14.0] * 8, ssim=[0.1] * 8)])
    assert [row.verdict.level for row in rows] == [Level.INCONCLUSIVE, Level.PARTLY]
    assert "hides nothing" not in headline(rows)
    assert "nothing was found without it (11.2 dB), so what it hides is not known" in headline(rows)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [8, 12])
def test_of_many_rows_of_pure_noise_none_becomes_the_headline(pictures: int) -> None:
    """Of 300 audits of 20 rows and three metrics without any leak at most about 5 % find one; without it most do."""
    rng = np.random.default_rng(shifted(7))
    raised = uncorrected = 0
    for _ in range(300):
        rows = []
        for _ in range(20):
            found = [sign_flip_test(list(rng.normal(size=pictures)), resamples=500) for _ in range(3)]
            rows.append(dict(zip("abc", holm(found), strict=True)))
        uncorrected += any(min(row.values()) <= ALPHA for row in rows)
        raised += any(min(row.values()) <= ALPHA for row in across_rows(rows))
    assert raised / 300 < 0.09  # 5 % and three standard errors
    assert uncorrected / 300 > 0.3


def test_a_correction_over_rows_finds_what_most_rows_show_and_names_their_number(trial: MakeTrial) -> None:
    specs = [f"qsgd:levels={k},norm=max" for k in range(2, 22)]
    some = {"psnr": [12.0] * 8, "ssim": [0.2] * 8, "correlation": [0.3] * 8}
    rows = summarise(
        [with_attack(trial(obfuscation=spec, **some), controls={"another client": CONTROL}) for spec in specs]
    )
    assert {row.compared for row in rows} == {20}
    assert all(row.verdict.level is Level.PARTLY for row in rows)
    assert "after correction for 3 metrics and 20 rows" in " ".join(rows[0].verdict.reasons)
    assert "too few for a test that is corrected for 20 rows" in " ".join(rows[0].verdict.caveats)
    noise = {"psnr": [9.0] * 8, "ssim": [0.1] * 8, "correlation": [0.1] * 8}
    trials = [trial(obfuscation=spec, **(some if spec == specs[0] else noise)) for spec in specs]
    first = summarise([with_attack(t, controls={"another client": CONTROL}) for t in trials])[0]
    assert first.above["psnr"] > ALPHA  # one row among twenty, of eight pictures


def test_p_values_of_rows_are_enlarged_as_their_smallest_is() -> None:
    corrected = across_rows([{"psnr": 0.01, "ssim": 0.02}, {}, {"psnr": 0.04}])
    assert corrected == [pytest.approx({"psnr": 0.02, "ssim": 0.04}), {}, pytest.approx({"psnr": 0.04})]


def test_noise_in_training_that_hides_the_pictures_is_no_attack_that_fails(trial: MakeTrial) -> None:
    """The row of the noise has the same training without noise as its baseline; it is not the baseline itself."""
    noisy = dataclasses.replace(trial(training="fedsgd:clip=1,noise=1", **NOTHING), without_noise="fedsgd")
    alone = summarise([noisy])
    assert "was never tried on the bare update" in alone[0].verdict.sentence
    bare, row = summarise([trial(), noisy])
    assert (bare.verdict.level, row.verdict.level) == (Level.LEAKS, Level.NONE)
    assert row.obfuscation == "fedsgd:clip=1,noise=1"
    assert headline([bare, row]).startswith("No leakage was found behind the obfuscation that was tested")
