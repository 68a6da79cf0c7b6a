"""The terms on which differential privacy is stated: what a local training and an obfuscation do not say themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unveil.core.bounds import positive, whole
from unveil.core.errors import UsageError
from unveil.core.guarantees import Adjacency, Sampling
from unveil.privacy.gaussian import check_delta
from unveil.privacy.poisson import accountant

MOST_ROUNDS = 1_000_000
MOST_EXAMPLES = 10**12


@dataclass(frozen=True, kw_only=True)
class PrivacyTerms:
    """Delta, rounds, sampling and adjacency.

    Args:
        delta: The delta that epsilon is stated for, in (0, 1).
        rounds: Number of updates of one client that the attacker sees; at least 1.
        sampling: Which examples a round trains on: `all` of the client's; `poisson`, each with the same probability by
            itself; `fixed-size`, a fixed number without replacement, for which no amplification is granted.
        dataset: Number of examples that the client holds; with Poisson sampling the probability is the expected batch
            size of local training over this number. None if it is not known.
        adjacency: What neighbouring inputs differ in; None for what fits: `add-remove` where one example more changes
            nothing but its own term, else `replace`.
        each: Whether a sample is drawn for each `round` or for each `step` of local training.
        claimed_epsilon: The epsilon that the client's own software claims; None if it claims none.

    Raises:
        UsageError: A number is out of range, Poisson sampling lacks `dataset`, or its accountant is not installed.
    """

    delta: float = 1e-5
    rounds: int = 1
    sampling: Sampling = "all"
    dataset: int | None = None
    adjacency: Adjacency | None = None
    each: Literal["round", "step"] = "round"
    claimed_epsilon: float | None = None

    def __post_init__(self) -> None:
        check_delta(self.delta)
        whole("privacy", "rounds", self.rounds, 1, MOST_ROUNDS, "it is how many updates of a client the attacker sees")
        if self.dataset is not None:
            whole("privacy", "dataset", self.dataset, 1, MOST_EXAMPLES, "it is the number of examples of the client")
        if self.claimed_epsilon is not None:
            positive("privacy", "claimed_epsilon", self.claimed_epsilon, "leave it out if nothing is claimed")
        if self.sampling == "poisson":
            if self.dataset is None:
                raise UsageError(
                    "privacy: Poisson sampling needs the number of examples that the client holds; give dataset = 50000"
                )
            accountant()
