"""How sure a mean over images is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unveil.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval, in the unit of the values.

    Args:
        mean: The mean of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of the values with its percentile bootstrap interval.

    One value gives an interval of no width: it says nothing of the spread, not that there is none.

    Args:
        values: One value an image; at least one.
        confidence: Share of intervals meant to hold the true mean, in (0, 1).
        resamples: Times the values are drawn anew, at least 1.
        seed: Seed of the draws.

    Raises:
        UsageError: No values, or a setting out of range.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) == 0:
        raise UsageError("bootstrap_mean: expected at least one value, got none; score at least one image")
    if not 0 < confidence < 1:
        raise UsageError(f"bootstrap_mean: expected 0 < confidence < 1, got {confidence}; 0.95 is usual")
    if resamples < 1:
        raise UsageError(f"bootstrap_mean: expected resamples >= 1, got {resamples}; 2000 is usual")
    mean = float(np.mean(values))
    if min(values) == max(values):  # nothing to resample, and rounding must not give the interval a width
        return Interval(mean=mean, low=mean, high=mean)
    ends = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean=mean, low=float(ends.low), high=float(ends.high))


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation: 1 where both put everything in the same order, 0 where they have nothing in common.

    None where there are fewer than three pairs, or where one side is all the same or not finite.

    Raises:
        UsageError: The two are not equally long, unless one is empty.

    Reference:
        Spearman, The Proof and Measurement of Association between Two Things, American Journal of Psychology 1904.
    """
    import numpy as np
    from scipy.stats import spearmanr

    if len(one) != len(other) and one and other:
        raise UsageError(f"rank_correlation: expected as many values on both sides, got {len(one)} and {len(other)}")
    if min(len(one), len(other)) < 3 or not np.isfinite([*one, *other]).all():
        return None
    if min(one) == max(one) or min(other) == max(other):
        return None
    return float(spearmanr(one, other).statistic)
