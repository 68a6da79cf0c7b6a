"""What makes reports of thousands of trials quick gives the numbers of the libraries it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, kendalltau, spearmanr

from seeds import shifted
from unveil.report.statistics import FEW, bootstrap_mean, kendall_tau, rank_correlation, sign_flip_test
from unveil.report.svg_layout import Box, _covered

CHANCE = np.random.default_rng(shifted(0))


@pytest.mark.parametrize("n", [2, 3, 8, 16, 50])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_are_those_of_scipy(n: int, confidence: float) -> None:
    values = CHANCE.normal(20, 5, n)
    wanted = bootstrap(
        (values,),
        np.mean,
        n_resamples=2000,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = bootstrap_mean(values.tolist(), confidence=confidence)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-12)


@pytest.mark.parametrize("n", [3, 8, FEW, FEW + 1])
def test_rank_correlations_are_those_of_scipy(n: int) -> None:
    one, other = CHANCE.integers(0, 6, n).astype(float), CHANCE.normal(0, 1, n)
    one[:2] = [0.0, 9.0]
    assert kendall_tau(one.tolist(), other.tolist()) == pytest.approx(kendalltau(one, other).statistic)
    assert rank_correlation(one.tolist(), other.tolist()) == pytest.approx(spearmanr(one, other).statistic)


def test_a_sign_test_of_few_values_counts_every_pattern() -> None:
    values = [3.0, 1.0, -2.0]
    sums = [a + b + c for a in (3.0, -3.0) for b in (1.0, -1.0) for c in (2.0, -2.0)]
    assert sign_flip_test(values) == sum(total >= 2.0 for total in sums) / 8


def test_covered_areas_are_the_sums_of_overlaps() -> None:
    def boxes(count: int) -> list[Box]:
        corners = CHANCE.uniform(0, 9, (count, 2))
        return [
            Box(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, CHANCE.uniform(0, 5, (count, 2)), strict=True)
        ]

    some, others = boxes(5), boxes(7)
    wanted = [sum(box.overlap(other) for other in others) for box in some]
    assert _covered(some, others) == pytest.approx(wanted)
    assert _covered(some, []) == [0.0] * 5
