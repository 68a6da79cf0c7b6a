"""What makes reports of thousands of trials quick gives the numbers of the libraries it stands for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, false_discovery_control, kendalltau, spearmanr

from seeds import shifted
from unveil.report.statistics import (
    FEW,
    benjamini_hochberg,
    bootstrap_mean,
    kendall_tau,
    rank_correlation,
    sign_flip_test,
    wilson,
)
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
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-11)


@pytest.mark.parametrize("n", [3, 8, FEW, FEW + 1])
def test_rank_correlations_are_those_of_scipy(n: int) -> None:
    one, other = CHANCE.integers(0, 6, n).astype(float), CHANCE.normal(0, 1, n)
    one[:2] = [0.0, 9.0]
    assert kendall_tau(one.tolist(), other.tolist()) == pytest.approx(kendalltau(one, other).statistic)
    assert rank_correlation(one.tolist(), other.tolist()) == pytest.approx(spearmanr(one, other).statistic)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_corrected_p_values_are_those_of_scipy(n: int) -> None:
    values = CHANCE.uniform(0, 1, n) ** 3
    values[-1] = values[0]
    assert benjamini_hochberg(values.tolist()) == pytest.approx(false_discovery_control(values).tolist())
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize(("hits", "tries"), [(0, 5), (3, 7), (40, 41), (9, 9)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_of_rates_are_those_of_scipy(hits: int, tries: int, confidence: float) -> None:
    wanted = binomtest(hits, tries).proportion_ci(confidence, method="wilson")
    found = wilson(hits, tries, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_report_of_few_rows_does_not_load_scipys_statistics() -> None:
    code = (
        "import sys; from unveil.report import statistics as s; s.wilson(1, 3); s.bootstrap_mean([1.0, 2.0]); "
        "s.rank_correlation([1, 2, 3], [1, 3, 2]); s.benjamini_hochberg([0.1]); "
        "s.kendall_tau([1, 2, 3], [1, 3, 2]); sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
