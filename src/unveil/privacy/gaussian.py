"""The Gaussian mechanism without subsampling, in closed form.

A mechanism that adds Gaussian noise of standard deviation sigma to something that one unit moves by at most s in L2
norm is mu-Gaussian differentially private with ``mu = s / sigma``: no test tells "with" from "without" better than it
tells N(mu, 1) from N(0, 1). Several such releases together are one with ``mu = sqrt(mu_1^2 + mu_2^2 + ...)``, also
where each depends on the releases before it.

Reference:
    Dong, Roth and Su, Gaussian Differential Privacy, JRSS B 2022 (trade-off function, composition); Balle and Wang,
    Improving the Gaussian Mechanism for Differential Privacy, ICML 2018 (epsilon and delta).
"""

from __future__ import annotations

import math

from unveil.core.errors import UsageError

LOUD = 1e4
"""From this mu on epsilon is given by its upper bound, which then is less than 0.1 % above it."""


def delta_of(epsilon: float, mu: float) -> float:
    """Return the smallest delta at which a mu-Gaussian mechanism is (epsilon, delta)-differentially private.

    ``delta = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)``

    Args:
        epsilon: Any number, usually at least 0.
        mu: Sensitivity over standard deviation of the noise; at least 0.
    """
    from scipy.special import log_ndtr

    if mu == 0:
        return 0.0
    first, second = float(log_ndtr(mu / 2 - epsilon / mu)), float(log_ndtr(-mu / 2 - epsilon / mu))
    return math.exp(first) * -math.expm1(min(epsilon + second - first, 0.0))


def epsilon_of(delta: float, mu: float) -> float:
    """Return the smallest epsilon at which a mu-Gaussian mechanism is (epsilon, delta)-differentially private.

    Args:
        delta: In (0, 1).
        mu: Sensitivity over standard deviation of the noise; at least 0.

    Raises:
        UsageError: A number out of range.
    """
    from scipy.optimize import brentq

    check_delta(delta)
    if not 0 <= mu < math.inf:
        raise UsageError(f"privacy: expected a sensitivity over noise of at least 0, got {mu:g}; correct the noise")
    if delta_of(0.0, mu) <= delta:
        return 0.0
    # That of zero-concentrated privacy: Bun and Steinke, Concentrated Differential Privacy, TCC 2016, proposition 1.3.
    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    if mu >= LOUD:
        return most
    root: float = brentq(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, most, xtol=1e-12, rtol=1e-12)
    return root


def composed(mu: float, releases: float) -> float:
    """Return the mu of several releases of the same mu together: ``mu sqrt(releases)``."""
    return mu * math.sqrt(releases)


def success_bound(chance: float, mu: float) -> float:
    """Return how often any attack can be right that is right by chance with this probability without the update.

    ``Phi(Phi^-1(chance) + mu)``: the largest probability under N(mu, 1) of an event that has probability `chance` under
    N(0, 1). For an attack that picks the client's picture out of N candidates which are equally likely beforehand, the
    chance is 1 / N.

    Args:
        chance: Probability of being right without the update, in [0, 1].
        mu: How far one picture moves the update, over the noise, at least 0; "without the update" means that the
            picture is left out of it.

    Reference:
        Hayes, Balle and Mahloujifar, Bounding Training Data Reconstruction in DP-SGD, NeurIPS 2023: the blow-up
        function, which for noise without subsampling is this closed form.
    """
    from scipy.special import ndtr, ndtri

    return float(ndtr(ndtri(chance) + mu)) if 0 < chance < 1 else chance


def check_delta(delta: float) -> None:
    """Raise a `UsageError` unless ``0 < delta < 1``."""
    if not 0 < delta < 1:
        raise UsageError(
            f"privacy: expected 0 < delta < 1, got {delta:g}; take less than one over the examples, as 1e-5"
        )
