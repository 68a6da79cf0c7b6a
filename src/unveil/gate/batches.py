"""Means over the pictures of several batches, with intervals that allow for differences between batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unveil.report.statistics import Interval, bootstrap_mean, wilson


def mean_over_batches(batches: Sequence[Sequence[float]], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over the pictures of all batches with its 95 % percentile interval of a two-stage bootstrap.

    Batches are drawn with replacement, then pictures of each drawn batch: pictures of one batch share an update, so
    their scores are not independent.

    Args:
        batches: For each batch one value a picture; at least one batch, and one value in each.
        resamples: Number of bootstrap samples, at least 1.
        seed: Seed of the draws.

    Reference:
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    if len(batches) == 1:
        return bootstrap_mean(batches[0], resamples=resamples, seed=seed)
    values = [value for batch in batches for value in batch]
    mean = float(np.mean(values))
    if min(values) == max(values):  # without this, rounding errors would give the interval a width
        return Interval(mean=mean, low=mean, high=mean)
    generator, count = np.random.default_rng(seed), len(batches)
    drawn = generator.integers(0, count, (resamples, count))
    sizes = np.array([len(batch) for batch in batches])[drawn].sum(1)
    sums = np.zeros((resamples, count))
    for place, batch in enumerate(batches):
        here = drawn == place
        picked = generator.integers(0, len(batch), (int(here.sum()), len(batch)))
        sums[here] = np.asarray(batch, dtype=np.float64)[picked].sum(1)
    low, high = np.quantile(sums.sum(1) / sizes, [0.025, 0.975])
    return Interval(mean=mean, low=float(low), high=float(high))


def rate_over_batches(batches: Sequence[Sequence[float]]) -> Interval:
    """A rate over the pictures of all batches with its 95 % Wilson interval for the effective number of pictures.

    The effective number is that of independent pictures whose rate would vary as much: the number of pictures over the
    design effect, which is taken as at least 1.

    Args:
        batches: For each batch one value in [0, 1] a picture; at least one batch, and one value in each.

    Reference:
        Kish, Survey Sampling, 1965, section 8.2; Korn and Graubard, Confidence Intervals for Proportions with Small
        Expected Number of Positive Counts Estimated from Survey Data, Survey Methodology 1998.
    """
    count, tries = len(batches), sum(map(len, batches))
    hits = sum(map(sum, batches))
    rate, effect = hits / tries, 1.0
    if count > 1 and 0 < rate < 1:
        between = sum((sum(batch) - rate * len(batch)) ** 2 for batch in batches) * count / (count - 1) / tries**2
        effect = max(1.0, between * tries / (rate * (1 - rate)))
    effective = max(tries / effect, 1.0)
    return wilson(rate * effective, effective)
