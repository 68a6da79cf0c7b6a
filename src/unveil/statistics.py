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
