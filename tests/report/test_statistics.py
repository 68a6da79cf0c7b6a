import math

import numpy as np
import pytest

from seeds import shifted
from unveil.core.errors import UsageError
from unveil.report.statistics import benjamini_hochberg, bootstrap_mean, holm, rank_correlation, sign_flip_test, wilson


def test_interval_equals_a_bootstrap_written_out():
    values = np.random.default_rng(shifted(5)).normal(20, 4, size=40)
    rng = np.random.default_rng(shifted(6))
    means = rng.choice(values, size=(20_000, 40)).mean(1)
    interval = bootstrap_mean(list(values), confidence=0.9, resamples=20_000)
    assert interval.mean == pytest.approx(values.mean())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.1)


def test_more_confidence_is_wider_and_the_seed_decides():
    values = [2.0**power for power in np.linspace(0, 3, 12)]
    wide, narrow = bootstrap_mean(values, confidence=0.99), bootstrap_mean(values, confidence=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(shifted(0))
    intervals = [bootstrap_mean(list(rng.normal(size=30)), confidence=0.8, resamples=400) for _ in range(200)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 0.7 < covered / 200 < 0.88


@pytest.mark.parametrize("values", [[21.3], [0.1, 0.1, 0.1]], ids=["one value", "constant"])
def test_no_spread_no_width(values):
    interval = bootstrap_mean(values)
    assert interval.low == interval.mean == interval.high == pytest.approx(values[0])


def test_one_value_has_no_interval_and_two_have_one():
    one, two = bootstrap_mean([21.3]), bootstrap_mean([21.3, 21.3])
    assert not one.is_known
    assert (one.at_least, one.at_most) == (-math.inf, math.inf)
    assert two.is_known
    assert (two.at_least, two.at_most) == (two.low, two.high)


def test_benjamini_and_hochberg_find_the_four_of_their_own_example():
    """Section 3.2 of their paper: 15 comparisons of two treatments, of which the procedure finds 4 and Bonferroni 3."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p += [0.7590, 1.0]
    assert [value <= 0.05 for value in benjamini_hochberg(p)] == [True] * 4 + [False] * 11
    assert sum(15 * value <= 0.05 for value in p) == 3
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, r"expected at least one value, got none"),
        ([1.0, 2.0], {"confidence": 1.0}, r"expected 0 < confidence < 1, got 1.0"),
        ([1.0, 2.0], {"resamples": 0}, r"expected resamples >= 1, got 0"),
    ],
)
def test_what_cannot_be_used(values, settings, message):
    with pytest.raises(UsageError, match=message):
        bootstrap_mean(values, **settings)


def test_rank_correlation_looks_at_the_order_alone():
    assert rank_correlation([1, 2, 3, 4], [1, 8, 9, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, -9]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("one", "other"), [([], [1, 2, 3]), ([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3]), ([1, 2, float("nan")], [1, 2, 3])]
)
def test_what_cannot_be_ranked_has_no_correlation(one, other):
    assert rank_correlation(one, other) is None


def test_ranks_need_pairs():
    with pytest.raises(UsageError, match="as many values on both sides, got 3 and 4"):
        rank_correlation([1, 2, 3], [1, 2, 3, 4])


def test_wilson_by_hand_and_by_another_implementation():
    from scipy.stats import binomtest

    for hits, tries in ((0, 16), (3, 16), (16, 16), (50, 200)):
        ours = wilson(hits, tries)
        theirs = binomtest(hits, tries).proportion_ci(method="wilson")
        assert (ours.mean, ours.low, ours.high) == pytest.approx((hits / tries, theirs.low, theirs.high))
    with pytest.raises(UsageError, match="0 <= hits <= tries"):
        wilson(3, 2)
    with pytest.raises(UsageError, match="0 < confidence < 1"):
        wilson(1, 2, confidence=1)


def test_sign_flips_are_counted_exactly_where_they_are_few():
    assert sign_flip_test([1.0, 2.0, 3.0]) == 1 / 8  # only the pattern that was observed is as large
    assert sign_flip_test([-1.0, -2.0, -3.0]) == 1.0
    assert sign_flip_test([3.0, -1.0]) == 2 / 4  # +3-1 and +3+1
    assert sign_flip_test([0.0, 0.0]) == 1.0
    values = list(np.random.default_rng(shifted(0)).normal(0.4, 1, size=12))
    assert sign_flip_test(values, resamples=4000) == pytest.approx(sign_flip_test(values), abs=0.02)


def test_sign_flips_agree_with_another_implementation_and_never_say_zero():
    from scipy.stats import permutation_test

    values = np.random.default_rng(shifted(1)).normal(0.3, 1, size=40)
    theirs = permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, random_state=0
    )
    assert sign_flip_test(list(values)) == pytest.approx(theirs.pvalue, abs=0.01)
    assert 0 < sign_flip_test([1.0] * 40) < 1e-3
    with pytest.raises(UsageError, match="at least one difference"):
        sign_flip_test([])
    with pytest.raises(UsageError, match="resamples >= 1"):
        sign_flip_test([1.0], resamples=0)


def test_without_an_effect_the_p_value_is_small_as_rarely_as_it_says():
    rng = np.random.default_rng(shifted(2))
    found = [sign_flip_test(list(rng.standard_cauchy(size=11)), resamples=2048) <= 0.1 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.1, abs=0.04)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
