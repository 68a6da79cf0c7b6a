"""Rises over an earlier audit: p-values by hand and by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of
from unveil.core.records import Trial
from unveil.gate.judging import Judgement, Ruling
from unveil.gate.pools import Pool, pools
from unveil.gate.rises import judge_rise, paired_rise, unpaired_rise
from unveil.report import summarise


def test_a_paired_rise_has_the_p_value_of_its_sign_flips() -> None:
    assert paired_rise([1.0, 2.0, 0.5, 3.0, 1.0]).p == 1 / 32
    rise = paired_rise([1.0, -2.0, 0.5])
    flipped = [
        sum(s * d for s, d in zip(signs, (1.0, 2.0, 0.5), strict=True))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    assert rise.p == sum(total >= -0.5 for total in flipped) / 8
    assert rise.mean == pytest.approx(-0.5 / 3)
    assert paired_rise([0.0] * 8).p == 1.0


def test_the_lower_end_of_a_paired_rise_is_one_sided() -> None:
    found = [4.0, 1.0, 3.0, 2.0, 6.0, 5.0]
    drawn = np.asarray(found)[np.random.default_rng(0).integers(0, 6, (2000, 6))].mean(1)
    assert paired_rise(found).low == pytest.approx(float(np.quantile(drawn, 0.05)))


def test_an_unpaired_rise_is_that_of_every_equally_likely_sample() -> None:
    now, before = [0.0, 4.0, 7.0], [1.0, 2.0]
    means = [
        np.mean(a) - np.mean(b) for a in itertools.product(now, repeat=3) for b in itertools.product(before, repeat=2)
    ]
    rise = unpaired_rise(now, before)
    assert rise.mean == pytest.approx(11 / 3 - 1.5)
    assert rise.p == pytest.approx(np.mean([mean <= 0 for mean in means]), abs=0.01)
    assert np.quantile(means, 0.04) <= rise.low <= np.quantile(means, 0.06)


def test_an_unpaired_rise_without_spread_is_no_chance_but_never_certain() -> None:
    assert unpaired_rise([2.0] * 5, [1.0] * 5).p == 1 / 10_001
    assert unpaired_rise([1.0] * 5, [1.0] * 5).p == 1.0


def pool_of(*trials: Trial, baseline: Any = LEAK) -> Pool:
    everything = beside_baseline(*trials, baseline=baseline)
    (pool,) = pools(summarise(everything), settings_of(everything))
    return pool


def ruled(
    now: dict[str, list[float]],
    before: dict[str, list[float]],
    metric: str = "psnr",
    *,
    same: bool = True,
    baseline: Any = LEAK,
    obstacle: str = "",
) -> Judgement:
    rows = pool_of(made(scores=before)).rows
    pool = pool_of(made(scores=now), baseline=baseline)
    return judge_rise(metric, pool, rows, same_pictures=same, since="old", obstacle=obstacle)


def scores(psnr: list[float], **others: list[float]) -> dict[str, list[float]]:
    return {"psnr": psnr, "ssim": [0.5] * len(psnr), **others}


BEFORE = [14.0, 16.0, 18.0, 20.0, 15.0, 17.0, 19.0, 13.0]


def test_a_rise_of_every_picture_is_one_and_a_fall_none() -> None:
    rise = ruled(scores([value + 1 for value in BEFORE]), scores(BEFORE))
    assert rise.ruling is Ruling.EXCEEDED
    assert (rise.rule, rise.condition, rise.since) == ("psnr.rise", "psnr rises", "old")
    assert (rise.value, rise.bound, rise.room) == pytest.approx((1.0, 1.0, -1.0))
    assert rise.sentence == (
        "What leaks in psnr rose by 1.0 dB over the same 8 pictures since old (p = 0.004, one-sided)."
    )
    fall = ruled(scores(BEFORE), scores([value + 1 for value in BEFORE]))
    assert fall.ruling is Ruling.PASSED
    assert "fell by 1.0 dB" in fall.sentence
    assert "(p = 1.000, one-sided)" in fall.sentence


def test_the_same_rise_over_other_pictures_may_be_chance() -> None:
    other = ruled(scores([value + 1 for value in BEFORE]), scores(BEFORE), same=False)
    assert other.ruling is Ruling.PASSED
    assert "over other pictures since old" in other.sentence
    assert ruled(scores([value + 9 for value in BEFORE]), scores(BEFORE), same=False).ruling is Ruling.EXCEEDED


def test_where_a_low_value_means_leakage_a_fall_is_a_rise() -> None:
    far, near = scores(BEFORE, lpips=[0.6] * 8), scores(BEFORE, lpips=[0.4] * 8)
    for same in (True, False):
        rise = ruled(near, far, "lpips", same=same)
        assert rise.ruling is Ruling.EXCEEDED
        assert rise.value == pytest.approx(0.2)
        assert ruled(far, near, "lpips", same=same).ruling is Ruling.PASSED


@pytest.mark.parametrize(
    ("metric", "step", "ruling"),
    [("psnr", 0.01, Ruling.PASSED), ("psnr", 0.11, Ruling.EXCEEDED), ("ssim", 0.02, Ruling.EXCEEDED)],
)
def test_a_rise_that_no_table_shows_is_none(metric: str, step: float, ruling: Ruling) -> None:
    now = {name: [value + step for value in values] for name, values in scores(BEFORE).items()}
    judged = ruled(now, scores(BEFORE), metric)
    assert (judged.ruling, "p = 0.004" in judged.sentence) == (ruling, True)


@pytest.mark.parametrize(("found", "ruling"), [(4, Ruling.PASSED), (5, Ruling.EXCEEDED)])
def test_a_share_rises_with_five_more_pictures_and_not_with_four(found: int, ruling: Ruling) -> None:
    now, before = scores(BEFORE, reid_top1=[1.0] * found + [0.0] * (8 - found)), scores(BEFORE, reid_top1=[0.0] * 8)
    assert ruled(now, before, "reid_top1").ruling is ruling  # p = 1/16 and 1/32


@pytest.mark.parametrize(("pictures", "ruling"), [(4, Ruling.UNJUDGED), (5, Ruling.EXCEEDED)])
def test_too_few_pictures_are_not_judged(pictures: int, ruling: Ruling) -> None:
    judged = ruled(scores([25.0] * pictures), scores([20.0] * pictures))
    assert judged.ruling is ruling
    if ruling is Ruling.UNJUDGED:
        assert judged.sentence == "4 pictures are too few to tell a rise from chance; audit 5 or more."
        assert (judged.value, judged.bound) == (None, None)


def test_where_the_attack_fails_only_a_rise_counts() -> None:
    nothing = scores([11.2] * 8)
    nothing["ssim"] = [0.1] * 8
    judged = ruled(nothing, nothing, baseline=NOTHING)
    assert judged.ruling is Ruling.UNJUDGED
    assert judged.sentence.startswith("This attack fails even on the bare update")
    lower = {**nothing, "psnr": [11.0] * 8}
    assert ruled(nothing, lower, baseline=NOTHING).ruling is Ruling.EXCEEDED


def test_what_one_of_the_two_did_not_compute_is_not_judged() -> None:
    one, both = scores(BEFORE), scores(BEFORE, lpips=[0.5] * 8)
    assert ruled(one, both, "lpips").sentence.startswith("lpips was not computed; set lpips_weights")
    assert ruled(both, one, "lpips").sentence.startswith("In old: lpips was not computed; set lpips_weights")
    broken = scores([float("nan"), *BEFORE[1:]])
    assert ruled(scores(BEFORE), broken).sentence.startswith("In old: 1 of 8 scores of psnr are no numbers")
    assert ruled(both, both, "lpips", obstacle="No.").sentence == "No."
    assert ruled(both, both, "lpips", obstacle="No.").ruling is Ruling.UNJUDGED
