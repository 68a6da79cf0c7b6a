"""Gaussian noise on Poisson samples: epsilon by the PRV accountant of Opacus, the extra `dp`."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from importlib.metadata import version

from unveil.core.errors import UsageError
from unveil.privacy.gaussian import check_delta, composed, epsilon_of

MOST_RELEASES = 100_000
"""Most sampled releases that are accounted for: with these the accountant takes half a minute."""

FAINT = 0.1
"""Below this noise multiplier a single sample says all, and the accountant runs out of memory: no amplification
counts."""


def is_amplified(multiplier: float) -> bool:
    """Return whether the accountant is used at this noise multiplier."""
    return multiplier >= FAINT


def accountant() -> str:
    """Return the name and the version of the accountant.

    Raises:
        UsageError: Opacus is not installed.
    """
    try:
        import opacus  # noqa: F401
    except ImportError:
        raise UsageError(
            "privacy: Poisson sampling needs the accountant of Opacus; pip install 'unveil[dp]', or say sampling = "
            '"all"'
        ) from None
    return f"PRV accountant of Opacus {version('opacus')}"


@lru_cache(maxsize=64)
def poisson_epsilon(delta: float, *, multiplier: float, rate: float, releases: int) -> float:
    """Return an upper bound of epsilon for the sampled Gaussian mechanism, adjacency by adding or removing an example.

    It is never more than without sampling; see `is_amplified`.

    Args:
        delta: In (0, 1).
        multiplier: Standard deviation of the noise on the sum over the clipping norm; greater than 0.
        rate: Probability with which each example is in a sample, independently, in (0, 1).
        releases: Number of samples, at least 1.

    Raises:
        UsageError: Opacus is not installed, delta is out of range, or there are more than `MOST_RELEASES`.

    Reference:
        Gopi, Lee and Wutschitz, Numerical Composition of Differential Privacy, NeurIPS 2021. Opacus's
        GaussianAccountant is not used: it rests on a central limit theorem and may report less than the true epsilon.
    """
    check_delta(delta)
    if releases > MOST_RELEASES:
        raise UsageError(
            f"privacy: expected at most {MOST_RELEASES:,} Poisson samples over all rounds, got {releases:,}; lower "
            "rounds"
        )
    accountant()
    unsampled = epsilon_of(delta, composed(1 / multiplier, releases))  # sampling never costs privacy
    if not is_amplified(multiplier):
        return unsampled
    from opacus.accountants import PRVAccountant

    prv = PRVAccountant()
    prv.history = [(multiplier, rate, releases)]
    with warnings.catch_warnings():  # it overflows where the mass is zero, and starts from a coarse bound of its own
        warnings.simplefilter("ignore")
        found = float(prv.get_epsilon(delta=delta))
    return min(found, unsampled) if math.isfinite(found) else unsampled
