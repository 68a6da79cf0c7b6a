"""Judging a pool against the same rows of an earlier audit: whether significantly more comes back now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unveil.core.metric import MetricFacts
from unveil.gate.judging import Judgement, Ruling, number, uncomputed, untested
from unveil.gate.pools import Pool
from unveil.metrics import facts_of
from unveil.report.formatting import count
from unveil.report.rows import Row
from unveil.report.significance import ALPHA
from unveil.report.statistics import bootstrap_mean, sign_flip_test

LEAST = 5
"""Fewest pictures that are tested: the smallest p-value of four pairs is 1/16, above `ALPHA`."""


@dataclass(frozen=True, kw_only=True)
class Rise:
    """How much more comes back than before, in the metric's unit; above zero where more leaks.

    Args:
        mean: The difference of the means.
        low: The lower end of a one-sided 95 % interval.
        p: One-sided p-value in [0, 1] of the difference.
    """

    mean: float
    low: float
    p: float


def paired_rise(differences: Sequence[float]) -> Rise:
    """The rise over the same pictures: sign flips, and the bootstrap of the mean difference.

    Args:
        differences: For each picture how much more leaks now, at least one.
    """
    interval = bootstrap_mean(differences, confidence=0.9)
    return Rise(mean=interval.mean, low=interval.low, p=sign_flip_test(differences))


def unpaired_rise(now: Sequence[float], before: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Rise:
    """The rise over other pictures: both samples are drawn anew, each on its own.

    Args:
        now: One value a picture, higher where more leaks; at least one.
        before: The same of the earlier audit.
        resamples: Number of bootstrap samples, at least 1.
        seed: Seed of the draws.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 8.3 and chapter 15.
    """
    generator = np.random.default_rng(seed)
    means = [
        np.asarray(values, dtype=np.float64)[generator.integers(0, len(values), (resamples, len(values)))].mean(1)
        for values in (now, before)
    ]
    drawn = means[0] - means[1]
    mean = float(np.mean(now) - np.mean(before))
    # The sample that was observed counts as one of those without a rise: no p-value is zero.
    p = (int((drawn <= 0).sum()) + 1) / (resamples + 1)
    return Rise(mean=mean, low=float(np.quantile(drawn, 1 - 0.95)), p=p)


def judge_rise(
    metric: str, pool: Pool, before: Sequence[Row], *, same_pictures: bool, since: str, obstacle: str = ""
) -> Judgement:
    """Judge whether significantly more comes back than in an earlier audit.

    A rise counts whatever the baseline does. Without one, nothing is judged where the attack fails.

    Args:
        metric: The metric's key in results.
        pool: What is judged, of which only rows that the earlier audit has.
        before: The same row of the earlier audit for each row of the pool.
        same_pictures: Whether both have the same pictures, in the same places.
        since: Name of the earlier audit.
        obstacle: Why the metric cannot be compared; empty where it can.
    """
    facts = facts_of(metric)
    reason = obstacle or uncomputed(pool.rows, metric)
    if not reason and (lacking := uncomputed(before, metric)):
        reason = f"In {since}: {lacking}"
    pictures = min(sum(row.pictures for row in rows) for rows in (pool.rows, before))
    if not reason and pictures < LEAST:
        reason = f"{count(pictures, 'picture')} are too few to tell a rise from chance; audit {LEAST} or more."
    rise = None if reason else _rise(facts, pool.rows, before, same_pictures)
    ruling, sentence = Ruling.UNJUDGED, reason
    if rise is not None:
        sentence = _sentence(facts, rise, pictures, same_pictures, since)
        if rise.p <= ALPHA and rise.mean >= _least(facts):
            ruling = Ruling.EXCEEDED
        elif reason := untested(pool, facts):
            sentence = reason
        else:
            ruling = Ruling.PASSED
    return Judgement(
        rule=f"{metric}.rise",
        condition=f"{metric} rises",
        pool=pool,
        facts=facts,
        value=None if rise is None else rise.mean,
        bound=None if rise is None else rise.low,
        limit=0.0,
        room=math.inf if rise is None else -rise.low,
        ruling=ruling,
        sentence=sentence,
        since=since,
    )


def _rise(facts: MetricFacts, now: Sequence[Row], before: Sequence[Row], same_pictures: bool) -> Rise:
    sign = 1 if facts.leak == "high" else -1
    scores = [[row.scores[facts.name].by_picture for row in rows] for rows in (now, before)]
    if not same_pictures:
        there, then = ([sign * value for score in rows for value in score.values()] for rows in scores)
        return unpaired_rise(there, then)
    return paired_rise(
        [
            sign * (value - earlier[place])
            for score, earlier in zip(*scores, strict=True)
            for place, value in score.items()
        ]
    )


def _least(facts: MetricFacts) -> float:
    """The smallest rise that a table shows: a smaller one may be rounding on another machine."""
    return 0.001 if facts.is_rate else 10.0**-facts.digits


def _sentence(facts: MetricFacts, rise: Rise, pictures: int, same_pictures: bool, since: str) -> str:
    """The numbers of a comparison."""
    sample = f"the same {count(pictures, 'picture')}" if same_pictures else "other pictures"
    says = f"p {'< 0.001' if rise.p < 0.001 else f'= {rise.p:.3f}'}, one-sided"
    found = f"{'rose' if rise.mean >= 0 else 'fell'} by {number(abs(rise.mean), facts)}"
    return f"What leaks in {facts.name} {found} over {sample} since {since} ({says})."
