"""What is known of an update's differential privacy, as results keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["example", "client"]
"""Whose privacy: that of one example, a picture with its label, or that of everything a client has."""

Adjacency = Literal["replace", "zero-out", "add-remove"]
"""What two neighbouring inputs differ in: one unit is another; its contribution is zero; it is there or not."""

Sampling = Literal["all", "poisson", "fixed-size"]
"""Which examples a round trains on: all; each with the same probability by itself; a fixed number without
replacement."""


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What holds for one unit against everybody who sees the client's updates.

    Args:
        unit: One example, or one client.
        adjacency: What neighbouring inputs differ in.
        sampling: Which examples a round trains on.
        rounds: Number of updates of this client that the guarantee covers.
        releases: Number of noisy releases in one update that the unit is in.
        delta: The delta that epsilon is stated for, in (0, 1).
        epsilon: Epsilon over all rounds; None if there is no guarantee.
        reason: Why there is no guarantee, a sentence; empty if there is one.
        clip: Largest L2 norm of the unit's contribution to a release; None if nothing bounds it.
        noise: Standard deviation of the Gaussian noise on the same scale; 0 for none that counts.
        sensitivity: How far neighbouring inputs move a release at most, in L2 norm; None without a guarantee.
        rate: Probability with which an example is in a round; 1 unless Poisson sampling is granted.
        accountant: How epsilon was computed; empty without a guarantee.
        strength: How far one picture that is in this update moves it at most, over the noise; the bound on every
            attack on this one update follows from it. None if it has none.
        claimed: The epsilon that the client's own software claims; None if it claims none.
        assumptions: What the statement rests on, a sentence each.
    """

    unit: Unit
    adjacency: Adjacency
    sampling: Sampling
    rounds: int
    releases: int
    delta: float
    epsilon: float | None = None
    reason: str = ""
    clip: float | None = None
    noise: float = 0.0
    sensitivity: float | None = None
    rate: float = 1.0
    accountant: str = ""
    strength: float | None = None
    claimed: float | None = None
    assumptions: list[str] = field(default_factory=list)
