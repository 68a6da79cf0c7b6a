"""Poisson sampling by Opacus's PRV accountant, against integration, the closed form and published values."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from generated import tried
from unveil.core.errors import UsageError
from unveil.privacy.gaussian import composed, epsilon_of
from unveil.privacy.poisson import FAINT, MOST_RELEASES, accountant, poisson_epsilon
from unveil.privacy.terms import PrivacyTerms

DELTA = 1e-5


def one_sample(delta: float, multiplier: float, rate: float) -> float:
    """Exact epsilon of one sampled release: (1 - q) N(0, s) + q N(1, s) against N(0, s), by quadrature."""
    absent, present = norm(0, multiplier).pdf, norm(1, multiplier).pdf

    def mixed(x: float) -> float:
        return (1 - rate) * float(absent(x)) + rate * float(present(x))

    def delta_at(epsilon: float) -> float:
        # p is above e^epsilon q from here on
        cut = multiplier**2 * math.log((math.exp(epsilon) - 1 + rate) / rate) + 0.5
        there, _ = quad(
            lambda x: mixed(x) - math.exp(epsilon) * float(absent(x)), cut, cut + 40 * multiplier, limit=500
        )
        return float(there) - delta

    return float(brentq(delta_at, 1e-6, 60))


def test_without_opacus_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(
        UsageError, match=r"needs the accountant of Opacus; pip install 'unveil\[dp\]', or say sampling"
    ):
        accountant()
    with pytest.raises(UsageError, match=r"pip install 'unveil\[dp\]'"):
        PrivacyTerms(sampling="poisson", dataset=1000)


class TestWithOpacus:
    @pytest.fixture(autouse=True)
    def needs_opacus(self) -> None:
        pytest.importorskip("opacus", reason="the extra unveil[dp] is not installed")

    def test_the_accountant_says_its_version(self) -> None:
        assert accountant().startswith("PRV accountant of Opacus 1.")

    @pytest.mark.slow
    def test_a_published_setting(self) -> None:
        # The Renyi accountant, which is looser, says 2.101; the unsafe central limit theorem says less than the truth.
        found = poisson_epsilon(DELTA, multiplier=1.0, rate=0.01, releases=1000)
        assert found == pytest.approx(1.838, abs=0.001)
        assert found < 2.101

    @pytest.mark.slow
    @pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.01), (1.0, 0.2), (0.7, 0.05), (2.0, 0.5)])
    def test_one_sample_is_what_integration_says(self, multiplier: float, rate: float) -> None:
        found = poisson_epsilon(DELTA, multiplier=multiplier, rate=rate, releases=1)
        exact = one_sample(DELTA, multiplier, rate)
        assert exact <= found <= exact + 0.02  # an upper bound, with an error of 0.01 that it may make

    @pytest.mark.slow
    def test_as_the_rate_goes_to_one_it_goes_to_the_closed_form(self) -> None:
        found = poisson_epsilon(DELTA, multiplier=3.0, rate=0.9999, releases=20)
        assert found == pytest.approx(epsilon_of(DELTA, composed(1 / 3, 20)), abs=0.02)

    @pytest.mark.slow
    @tried(4)
    @given(multiplier=st.floats(0.6, 4), rate=st.floats(0.001, 0.5), releases=st.integers(1, 300))
    def test_less_noise_higher_rate_and_more_releases_cost_more(
        self, multiplier: float, rate: float, releases: int
    ) -> None:
        def epsilon(
            delta: float = DELTA, noise: float = multiplier, share: float = rate, count: int = releases
        ) -> float:
            return poisson_epsilon(delta, multiplier=noise, rate=share, releases=count)

        error = 0.021  # of both sides
        assert epsilon() <= epsilon(noise=multiplier / 1.5) + error
        assert epsilon() <= epsilon(share=min(rate * 1.5, 0.999)) + error
        assert epsilon() <= epsilon(count=2 * releases) + error
        assert epsilon(delta=DELTA * 10) <= epsilon() + error
        assert epsilon() <= epsilon_of(DELTA, composed(1 / multiplier, releases))

    def test_next_to_no_noise_is_not_amplified(self) -> None:
        faint = FAINT / 2
        found = poisson_epsilon(DELTA, multiplier=faint, rate=0.01, releases=3)
        assert found == epsilon_of(DELTA, composed(1 / faint, 3))

    def test_too_many_samples_are_one_sentence(self) -> None:
        with pytest.raises(
            UsageError, match="at most 100,000 Poisson samples over all rounds, got 100,001; lower rounds"
        ):
            poisson_epsilon(DELTA, multiplier=1.0, rate=0.01, releases=MOST_RELEASES + 1)
