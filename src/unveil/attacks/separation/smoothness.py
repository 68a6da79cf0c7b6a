"""The weight of the regulariser of a search that matches updates, chosen by the received update alone.

How much an update says of a single pixel differs by orders of magnitude between networks, so no weight serves all. One
that is too large keeps the search from explaining the update. One that is too small lets it explain the update, and
its noise, by pictures that are wrong. So the largest weight is taken with which a short search explains the update
nearly as well as with any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.update_matching import MatchUpdates, objective_of
from unveil.core.batch import Batch

FACTORS = (1.0, 0.001)  # of the smoothness that are tried, the largest first
SHARE = 5  # a short search takes the steps of the search divided by this
FEWEST = 20  # steps of a short search, at least: after fewer the regulariser itself has not settled
NEARLY = 1.4  # times the least distance of all short searches, up to which a larger weight is taken


@dataclass(frozen=True, kw_only=True)
class ChooseSmoothness:
    """Search pictures whose simulated update is the received one, with the weight of the regulariser that suits it.

    A search of fewer than twice `FEWEST` steps has the usual weight.

    Args:
        search: The stage of the search, which is run anew with the chosen smoothness. It does not depend on the short
            searches otherwise, and they use none of its randomness.
    """

    search: MatchUpdates

    @property
    def steps(self) -> int:
        """The steps of the search, without those of the short ones."""
        return self.search.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Choose the smoothness and search the pictures; see `Stage`."""
        steps = max(FEWEST, self.search.steps // SHARE)
        if self.search.steps < 2 * FEWEST or not self.search.smoothness:
            return self.search(problem, state)
        tried = [replace(self.search, smoothness=factor * self.search.smoothness) for factor in FACTORS]
        left = [_left(replace(search, steps=steps, starts=1), problem, state) for search in tried]
        chosen = nearly_least(left)
        note = (
            f"The regulariser's weight was chosen by the received update alone: of "
            f"{' and '.join(f'{factor:g}' for factor in FACTORS)} times the usual one, {FACTORS[chosen]:g} is the "
            f"largest with which {steps} steps leave at most {NEARLY:g} times the distance that the best one leaves."
        )
        state = tried[chosen](problem, state)
        return replace(state, notes=(*state.notes, note))


def nearly_least(left: Sequence[float]) -> int:
    """Return the first place whose value is at most `NEARLY` times the least one.

    Args:
        left: What short searches leave of a distance, at least 0; NaN for a search that diverged.
    """
    bound = NEARLY * min((value for value in left if value == value), default=0.0)
    return next((place for place, value in enumerate(left) if value <= bound), 0)


def _left(search: MatchUpdates, problem: Problem, state: State) -> float:
    """Return the distance of the received update that a short search leaves, without the regulariser."""
    pictures = search(problem.apart(), state).pictures
    with torch.no_grad():
        return float(objective_of(problem)(problem.knowledge.simulate(problem.model, Batch(pictures, problem.labels))))
