"""Intervals of means over several batches, against enumeration and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from seeds import shifted
from unveil.gate.batches import mean_over_batches, rate_over_batches
from unveil.report.statistics import bootstrap_mean


def test_one_batch_is_the_bootstrap_of_the_report() -> None:
    assert mean_over_batches([[1.0, 2.0, 5.0]]) == bootstrap_mean([1.0, 2.0, 5.0])


def test_batches_that_differ_widen_the_interval_as_far_as_they_differ() -> None:
    found = mean_over_batches([[1.0] * 4, [3.0] * 4])  # 1, 2 and 3 with probability 1/4, 1/2 and 1/4
    assert (found.mean, found.low, found.high, found.is_known) == (2.0, 1.0, 3.0, True)
    pooled = bootstrap_mean([1.0] * 4 + [3.0] * 4)
    assert found.low < pooled.low < pooled.high < found.high


def test_the_interval_is_that_of_every_equally_likely_sample() -> None:
    batches = [[0.0, 4.0], [7.0, 9.0], [1.0, 20.0]]
    sums = [sum(np.take(batch, picked)) for batch in batches for picked in itertools.product((0, 1), repeat=2)]
    per_batch = [sums[4 * at : 4 * at + 4] for at in range(3)]
    means = [
        (a + b + c) / 6
        for drawn in itertools.product(range(3), repeat=3)
        for a, b, c in itertools.product(*(per_batch[at] for at in drawn))
    ]
    found = mean_over_batches(batches, resamples=40_000)
    assert found.mean == pytest.approx(41 / 6)
    assert np.quantile(means, 0.02) <= found.low <= np.quantile(means, 0.03)
    assert np.quantile(means, 0.97) <= found.high <= np.quantile(means, 0.98)


def test_batches_of_two_sizes_count_by_their_pictures() -> None:
    found = mean_over_batches([[6.0], [0.0, 0.0, 0.0]])
    assert found.mean == 1.5
    assert (found.low, found.high) == (0.0, 6.0)  # a sample of the small batch alone has mean 6


def test_equal_scores_have_an_interval_without_width() -> None:
    assert mean_over_batches([[0.1] * 3, [0.1] * 3]).high == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize(
    ("hits", "effective"),
    [
        ([4, 4], 16),  # the same in both: as if independent
        ([2, 6], 4),  # variance of the batches 0.0625, of 16 independent pictures 0.015625
        ([0, 0], 16),
        ([8, 8], 16),
    ],
)
def test_a_rate_has_the_wilson_interval_of_the_effective_number(hits: list[int], effective: int) -> None:
    batches = [[1.0] * found + [0.0] * (8 - found) for found in hits]
    found, rate = rate_over_batches(batches), sum(hits) / 16
    theirs = binomtest(round(rate * effective), effective).proportion_ci(method="wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((rate, theirs.low, theirs.high))


def test_two_batches_that_disagree_wholly_are_one_observation() -> None:
    found = rate_over_batches([[0.0] * 8, [1.0] * 8])
    z = float(norm.ppf(0.975))
    assert found.high == pytest.approx(0.5 + 0.5 * z / (1 + z**2) ** 0.5)  # Wilson's formula at a rate of 1/2 of 1


def test_one_batch_and_shares_between_zero_and_one() -> None:
    theirs = binomtest(3, 8).proportion_ci(method="wilson")
    found = rate_over_batches([[0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.slow
def test_batches_that_differ_are_allowed_for() -> None:
    """The bound of nine batches of four pictures lies below the true mean, 0, as rarely as it should, about 1 in 40."""
    generator, missed, missed_if_pooled = np.random.default_rng(shifted(0)), 0, 0
    for number in range(400):
        means = generator.normal(size=(9, 1))
        batches = (means + 2 * generator.normal(size=(9, 4))).tolist()
        missed += mean_over_batches(batches, seed=number, resamples=500).high < 0
        pooled = [value for batch in batches for value in batch]
        missed_if_pooled += bootstrap_mean(pooled, seed=number, resamples=500).high < 0
    assert missed <= 24  # 10 expected
    assert missed < missed_if_pooled  # 30 expected
