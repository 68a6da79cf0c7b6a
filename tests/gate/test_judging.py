"""One pool by one condition: bounds against scipy, and every reason for not judging."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of
from unveil.core.reconstruction import Stop
from unveil.core.records import Plausibility, Trial
from unveil.gate.conditions import parse
from unveil.gate.judging import Judgement, Ruling, judge
from unveil.gate.pools import pools
from unveil.metrics import FACTS, facts_of
from unveil.report import summarise

PSNR = [14.0, 16.0, 18.0, 20.0, 15.0, 17.0, 19.0, 13.0]
FAR = [0.5, 0.6, 0.7, 0.8, 0.55, 0.65, 0.75, 0.45]


def ruled(text: str, *trials: Trial, baseline: Any = LEAK) -> Judgement:
    """The one pool of these trials, judged by one condition."""
    everything = beside_baseline(*trials, baseline=baseline)
    (pool,) = pools(summarise(everything), settings_of(everything))
    return judge(parse(text, list(FACTS)), pool)


def scores(**others: list[float]) -> dict[str, list[float]]:
    return {"psnr": PSNR, "ssim": [0.5] * 8, **others}


def ends(values: list[float]) -> tuple[float, float]:
    """The percentile interval of scipy from the same seed."""
    found = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0))
    return found.confidence_interval.low, found.confidence_interval.high


def test_a_mean_is_judged_by_the_upper_end_of_its_interval() -> None:
    high = ends(PSNR)[1]
    passed = ruled(f"psnr > {high + 0.001}", made(scores=scores()))
    exceeded = ruled(f"psnr > {high - 0.001}", made(scores=scores()))
    assert (passed.ruling, exceeded.ruling) == (Ruling.PASSED, Ruling.EXCEEDED)
    assert (passed.value, passed.bound) == pytest.approx((16.5, high))
    assert passed.room == pytest.approx(0.001)
    assert exceeded.room == pytest.approx(-0.001)


def test_where_a_low_value_means_leakage_the_lower_end_is_judged() -> None:
    low = ends(FAR)[0]
    trial = made(scores=scores(lpips=FAR))
    passed, exceeded = ruled(f"lpips < {low - 0.001}", trial), ruled(f"lpips < {low + 0.001}", trial)
    assert (passed.ruling, exceeded.ruling) == (Ruling.PASSED, Ruling.EXCEEDED)
    assert (passed.value, passed.bound) == pytest.approx((0.625, low))
    assert passed.room == pytest.approx(0.001)
    assert ruled("lpips.worst < 0.45", trial).ruling is Ruling.PASSED
    assert ruled("lpips.worst < 0.451", trial).ruling is Ruling.EXCEEDED


def test_a_share_is_judged_by_its_wilson_bound() -> None:
    trial = made(scores=scores(reid_top1=[1.0] + [0.0] * 7))
    high = binomtest(1, 8).proportion_ci(method="wilson").high  # 0.471
    assert ruled(f"reid_top1 > {high + 0.001}", trial).ruling is Ruling.PASSED
    judged = ruled(f"reid_top1 > {high - 0.001}", trial)
    assert judged.ruling is Ruling.EXCEEDED
    assert (judged.value, judged.bound) == pytest.approx((0.125, high))
    assert judged.sentence.startswith(
        "reid_top1 is 12.5% over 8 pictures, up to 47.1% (95 %), beyond the limit of 47.0%."
    )


def test_the_worst_picture_is_judged_as_it_is() -> None:
    passed, exceeded = ruled("psnr.worst > 20", made(scores=scores())), ruled("psnr.worst >= 20", made(scores=scores()))
    assert (passed.ruling, exceeded.ruling) == (Ruling.PASSED, Ruling.EXCEEDED)
    assert (passed.value, passed.bound) == (20.0, 20.0)
    share = binomtest(0, 8).proportion_ci(method="wilson").high
    assert passed.sentence == (
        "psnr of the worst of 8 pictures is 20.0 dB, within the limit of 20.0 dB. With 8 pictures, up to "
        f"{share:.0%} of such pictures may leak more (95 %)."
    )
    assert exceeded.sentence == "psnr of the worst of 8 pictures is 20.0 dB, beyond the limit of 20.0 dB."


def test_where_only_the_bound_is_beyond_the_pictures_that_would_do_are_named() -> None:
    trial = made(scores=scores(reid_top1=[0.0] * 8))
    needed = next(n for n in range(8, 100) if binomtest(0, n).proportion_ci(method="wilson").high <= 0.1)
    assert needed == 35
    assert ruled("reid_top1 > 10%", trial).sentence.endswith(
        "What was measured is within it; about 35 pictures of the same scores would pass."
    )
    mean, (_, high) = 16.5, ends(PSNR)
    enough = int(np.ceil(8 * ((high - mean) / (17.0 - mean)) ** 2))
    assert f"about {enough} pictures" in ruled("psnr > 17", made(scores=scores())).sentence
    assert "pictures of the same scores" not in ruled("psnr > 16.4", made(scores=scores())).sentence


def test_where_no_number_of_pictures_would_do_none_is_named() -> None:
    assert ruled("psnr > 16.5001", made(scores=scores())).sentence.endswith("What was measured is within it.")
    share = scores(reid_top1=[1.0] + [0.0] * 7)
    assert ruled("reid_top1 > 12.51%", made(scores=share)).sentence.endswith("What was measured is within it.")


def test_a_limit_that_a_blind_guess_passes_is_said() -> None:
    assert ruled("psnr > 10.9", made(scores=scores())).sentence.endswith(
        "beyond the limit of 10.9 dB. A blind guess scores 11.0 dB: no update passes this limit."
    )
    assert "blind" not in ruled("psnr > 11.1", made(scores=scores())).sentence


def test_where_the_attack_fails_on_the_bare_update_nothing_is_judged() -> None:
    judged = ruled("psnr > 20", made(scores=NOTHING), baseline=NOTHING)
    assert judged.ruling is Ruling.UNJUDGED
    assert judged.value == pytest.approx(11.2)
    assert judged.sentence.startswith("This attack fails even on the bare update, so the obfuscation is untested")
    assert judged.sentence.endswith("more steps, another attack, or a smaller batch.")
    assert ruled("psnr > 20", made(scores=NOTHING)).ruling is Ruling.PASSED


def test_what_was_measured_beyond_the_limit_counts_whatever_the_baseline_did() -> None:
    trial = made(scores={**NOTHING, "reid_top1": [1.0, 1.0, *[0.0] * 6]})
    assert ruled("reid_top1 > 24%", trial, baseline=NOTHING).ruling is Ruling.EXCEEDED
    assert ruled("reid_top1 > 26%", trial, baseline=NOTHING).ruling is Ruling.UNJUDGED  # its bound is 59 %
    assert ruled("reid_top1 > 26%", trial).ruling is Ruling.EXCEEDED


def test_batches_whose_attack_fails_are_left_out_where_it_works_on_others() -> None:
    found = made(scores=scores(), client="a 1")
    nothing = made(scores=NOTHING, client="a 2")
    everything = [made("none", LEAK, client="a 1"), found, made("none", NOTHING, client="a 2"), nothing]
    (pool,) = pools(summarise(everything), settings_of(everything))
    judged = judge(parse("psnr > 30", ["psnr"]), pool)
    assert judged.ruling is Ruling.PASSED
    assert judged.value == 16.5
    assert "over 8 pictures" in judged.sentence


@pytest.mark.parametrize("condition", ["reid_top1 > 24%", "reid_top1.worst > 24%"])
def test_what_batches_measured_beyond_the_limit_counts_though_their_attack_fails(condition: str) -> None:
    found = made(scores=scores(reid_top1=[0.0] * 8), client="a 1")
    nothing = made(scores={**NOTHING, "reid_top1": [1.0] * 4 + [0.0] * 4}, client="a 2")
    everything = [made("none", LEAK, client="a 1"), found, made("none", NOTHING, client="a 2"), nothing]
    (pool,) = pools(summarise(everything), settings_of(everything))
    assert len(pool.conclusive(facts_of("reid_top1"))) == 1
    judged = judge(parse(condition, list(FACTS)), pool)
    assert judged.ruling is Ruling.EXCEEDED
    assert judged.value == (0.25 if condition.startswith("reid_top1 ") else 1.0)


def test_an_obfuscation_that_was_never_tried_without_is_not_judged() -> None:
    (pool,) = pools(summarise([made(scores=NOTHING)]), {})
    judged = judge(parse("psnr > 20", ["psnr"]), pool)
    assert judged.ruling is Ruling.UNJUDGED
    assert "never tried on the bare update" in judged.sentence


def test_diverged_runs_are_not_judged() -> None:
    judged = ruled("psnr > 20", made(scores=NOTHING, stop=Stop.DIVERGED))
    assert judged.ruling is Ruling.UNJUDGED
    assert "Every run of the attack diverged" in judged.sentence


@pytest.mark.parametrize(
    ("metric", "fix"),
    [
        ("lpips < 0.3", "set lpips_weights under metrics in the audit file"),
        ("reid_top1 > 0.1", "set decoys under metrics in the audit file"),
        ("true_class.worst > 0.1", "set classifier under metrics in the audit file"),
        ("ssim > 0.1", "give the client larger pictures"),
    ],
)
def test_a_metric_that_was_not_computed_is_not_judged(metric: str, fix: str) -> None:
    judged = ruled(metric, made(scores={"psnr": PSNR}), baseline={"psnr": LEAK["psnr"]})
    assert judged.ruling is Ruling.UNJUDGED
    assert (judged.value, judged.bound) == (None, None)
    name = metric.split()[0].removesuffix(".worst")
    assert judged.sentence == f"{name} was not computed; {fix} and run the audit into another folder."


def test_a_metric_that_one_batch_lacks_is_not_judged() -> None:
    judged = ruled("lpips < 0.3", made(scores=scores(lpips=FAR), client="a 1"), made(scores=scores(), client="a 2"))
    assert judged.ruling is Ruling.UNJUDGED
    assert "lpips was not computed" in judged.sentence


@pytest.mark.parametrize("condition", ["psnr > 30", "psnr.worst > 30"])
def test_scores_that_are_no_numbers_are_not_judged(condition: str) -> None:
    broken = scores()
    broken["psnr"] = [float("nan"), *PSNR[1:]]
    judged = ruled(condition, made(scores=broken), made(scores=scores(), seed=1))
    assert judged.ruling is Ruling.UNJUDGED
    assert judged.sentence.startswith("1 of 16 scores of psnr are no numbers (NaN); ")


def test_one_picture_has_no_bound() -> None:
    one = {"psnr": [25.0], "ssim": [0.8]}
    judged = ruled("psnr > 30", made(scores=one), baseline=one)
    assert judged.ruling is Ruling.UNJUDGED
    assert judged.sentence.startswith("One picture has no interval; give the client more pictures")
    assert ruled("psnr > 24", made(scores=one), baseline=one).ruling is Ruling.EXCEEDED
    assert ruled("psnr.worst > 30", made(scores=one), baseline=one).ruling is Ruling.PASSED


def test_a_recorded_update_without_originals_is_not_judged() -> None:
    known = Plausibility(explained=0.9, control=0.1, rehearsal={}, rehearsal_blind={})
    (pool,) = pools(summarise([made("none", {}, plausibility=known)]), {})
    judged = judge(parse("psnr > 20", ["psnr"]), pool)
    assert judged.ruling is Ruling.UNJUDGED
    assert judged.sentence.endswith("audit it with --truth.")
