"""Flower's LocalDpMod: the epsilon that it claims, and the epsilon that holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unveil.core.bounds import positive
from unveil.privacy.gaussian import check_delta, epsilon_of


@dataclass(frozen=True, kw_only=True)
class LocalDp:
    """What Flower's LocalDpMod does, and what it guarantees for one update of one client.

    Args:
        sigma: Standard deviation of the noise on every value.
        claimed: The epsilon that it was given.
        is_theorem: Whether the formula by which it chooses the noise is a theorem at that epsilon; up to 1 it is.
        at_sensitivity: The epsilon that holds if one unit moves the clipped update by its `sensitivity` at most.
        replaced: The epsilon that holds if everything that the client has may be replaced, which moves the clipped
            update by up to twice the clipping norm.
        spec: The same as an obfuscation of unveil.
    """

    sigma: float
    claimed: float
    is_theorem: bool
    at_sensitivity: float
    replaced: float
    spec: str


def local_dp(*, clipping_norm: float, sensitivity: float, epsilon: float, delta: float) -> LocalDp:
    """Return what `LocalDpMod(clipping_norm, sensitivity, epsilon, delta)` guarantees.

    Args:
        clipping_norm: Largest L2 norm of the client's weight difference; greater than 0.
        sensitivity: What the user of the mod takes for the sensitivity; greater than 0.
        epsilon: The epsilon that the mod is given; greater than 0.
        delta: In (0, 1).

    Raises:
        UsageError: A number out of range.

    Reference:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, theorem A.1: the formula of the mod,
        which is proved for epsilon in (0, 1).
    """
    check_delta(delta)
    for name, value in (("clipping_norm", clipping_norm), ("sensitivity", sensitivity), ("epsilon", epsilon)):
        positive("LocalDpMod", name, value, "give what the mod is given")
    sigma = sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    return LocalDp(
        sigma=sigma,
        claimed=epsilon,
        is_theorem=epsilon <= 1,
        at_sensitivity=epsilon_of(delta, sensitivity / sigma),
        replaced=epsilon_of(delta, 2 * clipping_norm / sigma),
        spec=f"dpsgd:clip={clipping_norm!r},noise={sigma / clipping_norm!r}",
    )
