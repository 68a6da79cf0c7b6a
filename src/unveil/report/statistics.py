"""Confidence intervals, tests and rank correlations of scores.

Short formulas stand here and are not taken from `scipy.stats`, whose import takes longer than a report; tests compare
them with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from unveil.core.errors import UsageError

FEW = 4096
"""Most pairs whose rank correlation is counted here, in arrays of 16 MiB; loading `scipy.stats` takes a second."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval, in the unit of the values.

    Args:
        mean: The mean of the values.
        low: Lower end of the interval; the mean where it is not known.
        high: Upper end of the interval; the mean where it is not known.
        is_known: Whether there is an interval: one value has none.
    """

    mean: float
    low: float
    high: float
    is_known: bool = True

    @property
    def at_least(self) -> float:
        """The lower end; minus infinity where the interval is not known."""
        return self.low if self.is_known else -math.inf

    @property
    def at_most(self) -> float:
        """The upper end; infinity where the interval is not known."""
        return self.high if self.is_known else math.inf


def bootstrap_mean(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of the values with its percentile bootstrap interval.

    One value has a mean and no interval: `is_known` is then false.

    Args:
        values: One value for each picture, at least one.
        confidence: Share of such intervals that contain the true mean, in (0, 1).
        resamples: Number of bootstrap samples, at least 1.
        seed: Seed of the draws.

    Raises:
        UsageError: No values, or a setting out of range.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if len(values) == 0:
        raise UsageError("bootstrap_mean: expected at least one value, got none; score at least one image")
    if not 0 < confidence < 1:
        raise UsageError(f"bootstrap_mean: expected 0 < confidence < 1, got {confidence}; 0.95 is usual")
    if resamples < 1:
        raise UsageError(f"bootstrap_mean: expected resamples >= 1, got {resamples}; 2000 is usual")
    return _bootstrapped(tuple(values), confidence, resamples, seed)


@lru_cache(maxsize=100_000)  # a report and the table in the terminal ask for the same intervals
def _bootstrapped(values: tuple[float, ...], confidence: float, resamples: int, seed: int) -> Interval:
    mean = float(np.mean(values))
    if min(values) == max(values):  # without this, rounding errors would give the interval a width
        return Interval(mean=mean, low=mean, high=mean, is_known=len(values) > 1)
    means = np.sort(_shares(len(values), resamples, seed) @ np.asarray(values, dtype=np.float64))
    places = (resamples - 1) * np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.interp(places, np.arange(resamples), means)  # `np.quantile`, at a tenth of its time
    # The last digits of a product differ by processor, and a page would show it where one decides how to round.
    return Interval(mean=mean, low=float(f"{low:.12g}"), high=float(f"{high:.12g}"))


@lru_cache(maxsize=16)
def _shares(n: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """The share that each value has in the mean of each sample with replacement, resamples x n.

    The samples are those that `scipy.stats.bootstrap` draws from the same seed. All means over n pictures share them.
    """
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    counts = np.zeros((resamples, n))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    return counts / n


def wilson(hits: float, tries: float, *, confidence: float = 0.95) -> Interval:
    """A rate and its Wilson interval, which stays in [0, 1] and has a width for rates of 0 and 1 too.

    Args:
        hits: Number of successes, 0 to `tries`.
        tries: Number of trials, at least 1; the effective number where they are not independent.
        confidence: Share of such intervals that contain the true rate, in (0, 1).

    Raises:
        UsageError: A number out of range.

    Reference:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
    """
    if tries < 1 or not 0 <= hits <= tries:
        raise UsageError(f"wilson: expected 0 <= hits <= tries and tries >= 1, got {hits:g} of {tries:g}; count again")
    if not 0 < confidence < 1:
        raise UsageError(f"wilson: expected 0 < confidence < 1, got {confidence}; 0.95 is usual")
    z2, rate = NormalDist().inv_cdf((1 + confidence) / 2) ** 2, hits / tries
    centre = (rate + z2 / (2 * tries)) / (1 + z2 / tries)
    half = (z2 * (rate * (1 - rate) / tries + z2 / (4 * tries**2))) ** 0.5 / (1 + z2 / tries)
    return Interval(mean=rate, low=max(centre - half, 0.0), high=min(centre + half, 1.0))


def hoeffding_lower(mean: float, tries: int, *, confidence: float = 0.95) -> float:
    """Lower end of a one-sided interval for the mean of independent values in [0, 1], whatever their distributions.

    The smallest p with ``tries KL(mean, p) <= log(1 / (1 - confidence))``, where KL is the divergence of two coins.

    Args:
        mean: The mean of the values, in [0, 1].
        tries: Number of values, at least 1.
        confidence: Share of such intervals that contain the true mean, in (0, 1).

    Raises:
        UsageError: A number out of range.

    Reference:
        Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, JASA 1963, theorem 1.
    """
    from scipy.optimize import brentq
    from scipy.special import rel_entr

    if tries < 1 or not 0 <= mean <= 1:
        raise UsageError(
            f"hoeffding_lower: expected a mean in [0, 1] of at least one value, got {mean:g} of {tries}; count again"
        )
    if not 0 < confidence < 1:
        raise UsageError(f"hoeffding_lower: expected 0 < confidence < 1, got {confidence}; 0.95 is usual")
    allowed = -math.log1p(-confidence) / tries

    def beyond(exponent: float) -> float:
        p = math.exp(exponent)
        return float(rel_entr(mean, p) + rel_entr(1 - mean, 1 - p)) - allowed

    least = -700.0  # the exponent of next to the smallest float
    if mean == 0 or beyond(least) <= 0:
        return 0.0
    return math.exp(brentq(beyond, least, math.log(mean)))


def sign_flip_test(differences: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> float:
    """One-sided p-value of a mean above zero: the share of random sign patterns that give a mean at least as large.

    With n values the p-value is at least ``2^-n``. It is exact if there are at most `resamples` sign patterns.

    Args:
        differences: Paired differences; without an effect both signs are equally likely.
        resamples: Number of random sign patterns otherwise, at least 1.
        seed: Seed of the patterns.

    Raises:
        UsageError: No values, or a setting out of range.

    Reference:
        Fisher, The Design of Experiments, 1935, chapter 3.
    """
    if len(differences) == 0:
        raise UsageError("sign_flip_test: expected at least one difference, got none; pair at least one image")
    if resamples < 1:
        raise UsageError(f"sign_flip_test: expected resamples >= 1, got {resamples}; 10000 is usual")
    return _flipped(tuple(differences), resamples, seed)


@lru_cache(maxsize=100_000)
def _flipped(differences: tuple[float, ...], resamples: int, seed: int) -> float:
    values = np.asarray(differences, dtype=np.float64)
    n, slack = len(values), 1e-12 * np.abs(values).sum()
    if 2**n <= resamples:
        return float((_all_signs(n) @ values >= values.sum() - slack).mean())
    # The pattern that was observed counts as one of them: no p-value is zero.
    return float(((_signs(n, resamples, seed) @ values >= values.sum() - slack).sum() + 1) / (resamples + 1))


@lru_cache(maxsize=16)
def _all_signs(n: int) -> npt.NDArray[np.float64]:
    """All patterns of n signs, 2^n x n."""
    return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)


@lru_cache(maxsize=16)
def _signs(n: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Random patterns of n signs, resamples x n."""
    return np.random.default_rng(seed).choice([-1, 1], size=(resamples, n)).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that all of them together raise a false alarm no more often than one.

    Reference:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min((len(p_values) - place) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that of those found the share of false alarms stays at the level.

    Where no test has an effect, all of them together raise a false alarm no more often than one.

    Reference:
        Benjamini and Hochberg, Controlling the False Discovery Rate, Journal of the Royal Statistical Society B 1995.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    adjusted, lowest = [0.0] * len(p_values), 1.0
    for place, i in enumerate(order):
        lowest = min(lowest, p_values[i] * len(p_values) / (len(p_values) - place))
        adjusted[i] = lowest
    return adjusted


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation: 1 where both put everything in the same order, 0 where they have nothing in common.

    None where there are fewer than three pairs, or where one side is all the same or not finite.

    Raises:
        UsageError: The two are not equally long, unless one is empty.

    Reference:
        Spearman, The Proof and Measurement of Association between Two Things, American Journal of Psychology 1904.
    """
    if len(one) != len(other) and one and other:
        raise UsageError(f"rank_correlation: expected as many values on both sides, got {len(one)} and {len(other)}")
    if min(len(one), len(other)) < 3 or not np.isfinite([*one, *other]).all():
        return None
    if min(one) == max(one) or min(other) == max(other):
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """The rank of each value from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b: of all pairs, how many more stand in the same order than in the opposite one, from -1 to 1.

    None where there are fewer than three pairs, or where one side is all the same or not finite.

    Raises:
        UsageError: The two are not equally long.

    Reference:
        Kendall, The Treatment of Ties in Ranking Problems, Biometrika 1945.
    """
    if len(one) != len(other):
        raise UsageError(f"kendall_tau: expected as many values on both sides, got {len(one)} and {len(other)}")
    if len(one) < 3 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return None
    if min(one) == max(one) or min(other) == max(other):
        return None
    if len(one) > FEW:
        from scipy.stats import kendalltau

        return float(kendalltau(one, other).statistic)
    rising, other_rising = (_rising(np.asarray(values, dtype=np.float64)) for values in (one, other))
    untied = np.count_nonzero(rising) * np.count_nonzero(other_rising)
    return float((rising * other_rising).sum(dtype=np.int64) / untied**0.5)


def _rising(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Of each pair of values, n x n: 1 where the first is the larger one, -1 where the second is, and 0 if equal."""
    larger = np.greater.outer(values, values).view(np.int8)
    return larger - larger.T
