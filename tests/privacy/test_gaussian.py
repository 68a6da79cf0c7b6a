"""The Gaussian mechanism against numerical integration, simulation and published values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from generated import tried
from seeds import seeded
from unveil.core.errors import UsageError
from unveil.privacy.gaussian import LOUD, composed, delta_of, epsilon_of, success_bound

MUS = st.floats(0.05, 20)
DELTAS = st.floats(1e-12, 0.4)
CHANCES = st.floats(1e-6, 1 - 1e-6)


def hockey_stick(epsilon: float, p: Callable[[float], float], q: Callable[[float], float], mu: float) -> float:
    """The integral of max(0, p - e^epsilon q), by quadrature."""
    cut = epsilon / mu + mu / 2  # where p is e^epsilon q, for N(mu, 1) against N(0, 1)
    value, _ = quad(lambda x: max(p(x) - math.exp(epsilon) * q(x), 0.0), cut, cut + 40, limit=500, epsabs=1e-14)
    return float(value)


@pytest.mark.parametrize(("epsilon", "mu"), [(0.0, 0.5), (0.3, 1.0), (2.0, 1.0), (4.0, 2.5), (9.0, 3.0), (1.0, 0.2)])
def test_delta_is_the_integral_of_the_hockey_stick(epsilon: float, mu: float) -> None:
    by_quadrature = hockey_stick(epsilon, norm(mu, 1).pdf, norm(0, 1).pdf, mu)
    assert delta_of(epsilon, mu) == pytest.approx(by_quadrature, rel=1e-6, abs=1e-13)


def test_epsilons_that_others_published() -> None:
    # Balle and Wang, figure 1 and section 2: the classical formula's noise for a claimed epsilon at delta 1e-5.
    def classical(epsilon: float) -> float:
        return math.sqrt(2 * math.log(1.25e5)) / epsilon

    assert epsilon_of(1e-5, 1 / classical(10)) == pytest.approx(10.39, abs=0.005)  # more than was claimed
    assert epsilon_of(1e-5, 1 / classical(50)) == pytest.approx(96.43, abs=0.005)
    assert epsilon_of(1e-5, 1 / classical(1)) < 1  # where the formula is valid it is safe, and loose
    # Dong, Roth and Su, figure 3: 1-GDP is (0, 0.3829)-private, (1, 0.1269)-private and (2, 0.0209)-private.
    for epsilon, delta in [(0.0, 0.3829), (1.0, 0.1269), (2.0, 0.0209)]:
        assert delta_of(epsilon, 1.0) == pytest.approx(delta, abs=5e-5)


@tried(50)
@given(delta=DELTAS, mu=MUS)
def test_epsilon_undoes_delta(delta: float, mu: float) -> None:
    epsilon = epsilon_of(delta, mu)
    if epsilon > 0:
        assert delta_of(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    else:
        assert delta_of(0.0, mu) <= delta


@tried(50)
@given(delta=DELTAS, mu=MUS, more=st.floats(1.01, 3))
def test_more_noise_or_more_delta_is_less_epsilon(delta: float, mu: float, more: float) -> None:
    assert epsilon_of(delta, mu) <= epsilon_of(delta, mu * more)
    assert epsilon_of(min(delta * more, 0.9), mu) <= epsilon_of(delta, mu)


def test_epsilon_goes_on_where_noise_is_next_to_nothing() -> None:
    below, above = epsilon_of(1e-5, LOUD * 0.999), epsilon_of(1e-5, LOUD * 1.001)
    assert below < above < 1.01 * below
    assert epsilon_of(1e-5, 1e9) < math.inf
    assert epsilon_of(1e-5, 0.0) == 0.0


def test_many_releases_are_one_of_less_noise() -> None:
    # The likelihood ratio of k independent releases depends on their sum alone: N(k mu, k) against N(0, k).
    mu, k, epsilon = 0.4, 7, 1.5
    scale = math.sqrt(k)
    p, q = norm(k * mu / scale, 1).pdf, norm(0, 1).pdf
    assert delta_of(epsilon, composed(mu, k)) == pytest.approx(hockey_stick(epsilon, p, q, k * mu / scale), rel=1e-6)


@tried(50)
@given(chance=CHANCES, mu=MUS, other=st.floats(-30, 30))
def test_the_bound_on_success_is_the_best_of_all_epsilons(chance: float, mu: float, other: float) -> None:
    # Every (epsilon, delta) allows e^epsilon chance + delta; the least of these is the trade-off curve.
    best = -mu * float(norm.ppf(chance)) - mu**2 / 2
    assert math.exp(best) * chance + delta_of(best, mu) == pytest.approx(success_bound(chance, mu), rel=1e-6)
    assert success_bound(chance, mu) <= math.exp(other) * chance + delta_of(other, mu) + 1e-9


@tried(50)
@given(chance=CHANCES, mu=MUS, more=st.floats(1.01, 3))
def test_the_bound_on_success_rises_with_chance_and_signal(chance: float, mu: float, more: float) -> None:
    assert chance <= success_bound(chance, mu) <= success_bound(chance, mu * more) <= 1
    assert success_bound(chance, mu) <= success_bound(min(chance * more, 1.0), mu)


def test_two_opposite_candidates_reach_the_bound() -> None:
    # Gradients +C and -C, noise C / mu: the sign of the noisy release is right with probability Phi(mu).
    mu, n = 0.8, 40_000
    truth = torch.randint(0, 2, (n,), generator=seeded(0)) * 2 - 1
    seen = truth + torch.randn(n, generator=seeded(1)) / mu
    rate = float((seen.sign() == truth).double().mean())
    assert rate == pytest.approx(success_bound(0.5, mu), abs=0.02)
    assert success_bound(0.5, mu) == pytest.approx(float(norm.cdf(mu)), rel=1e-12)


def test_the_best_attack_on_many_candidates_stays_below_the_bound() -> None:
    # Twenty gradients of length C in directions of their own; the likeliest candidate is the nearest one.
    mu, n, candidates = 2.0, 4_000, 20
    directions = torch.linalg.qr(torch.randn(64, candidates, generator=seeded(2)))[0].T
    truth = torch.randint(0, candidates, (n,), generator=seeded(3))
    seen = directions[truth] + torch.randn(n, 64, generator=seeded(4)) / mu
    rate = float(((seen @ directions.T).argmax(1) == truth).double().mean())
    bound = success_bound(1 / candidates, mu)
    assert 5 / candidates < rate < bound
    assert bound == pytest.approx(float(1 - norm.cdf(norm.ppf(1 - 1 / candidates) - mu)), rel=1e-9)


@pytest.mark.parametrize(("chance", "bound"), [(0.0, 0.0), (1.0, 1.0)])
def test_certain_guesses_stay_certain(chance: float, bound: float) -> None:
    assert success_bound(chance, 3.0) == bound


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_out_of_range_is_one_sentence(delta: float) -> None:
    with pytest.raises(UsageError, match=r"expected 0 < delta < 1, got .*; take less than one over the examples"):
        epsilon_of(delta, 1.0)


@pytest.mark.parametrize("mu", [-1.0, math.inf, math.nan])
def test_a_mu_out_of_range_is_one_sentence(mu: float) -> None:
    with pytest.raises(UsageError, match="expected a sensitivity over noise of at least 0"):
        epsilon_of(1e-5, mu)
