"""The learning rate of a search that matches features, chosen by the loss alone.

The features of a deep trained network change abruptly with the pixels: steps that a shallow network needs lead such a
search far from the first pictures, to a worse end. So the first search is run with several rates, and the one with the
least loss goes on with its rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State

FACTORS = (1.0, 0.3, 0.1)  # of the usual learning rate that are tried


@dataclass(frozen=True, kw_only=True)
class ChooseLearningRate:
    """Search the pictures with several learning rates, and keep the best result and its rate; see `Stage`.

    Args:
        search: The search, with the usual learning rate.
    """

    search: MatchFeatures

    @property
    def steps(self) -> int:
        """Number of steps that all searches take at most."""
        return len(FACTORS) * self.search.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Search from the same pictures with each rate; see `Stage`."""
        tried, losses = [], state.losses
        for factor in FACTORS:
            start = replace(state, losses=losses, learning_rates=factor * state.learning_rates)
            tried.append(self.search(problem, start))
            losses = tried[-1].losses
        chosen = min(range(len(FACTORS)), key=lambda number: _last(tried[number]))
        notes = state.notes
        if FACTORS[chosen] != 1:
            notes += (
                f"The search took {FACTORS[chosen]:g} times the usual learning rate, with which its first part ended "
                "at the least loss.",
            )
        return replace(tried[chosen], losses=losses, notes=notes)


def _last(state: State) -> float:
    """Return the last loss, infinite for a search that diverged."""
    loss = state.losses[-1] if state.losses else math.inf
    return loss if math.isfinite(loss) else math.inf
