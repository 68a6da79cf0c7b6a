"""The gain of an update whose length says nothing, estimated while the pictures of a search get better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.gain.consistency import consistent_gain
from unveil.attacks.separation.gain.levels import Levelled
from unveil.attacks.separation.gain.likelihood import GainLikelihood
from unveil.attacks.separation.state import Problem, State
from unveil.core.factored import Candidate
from unveil.core.types import Batch, Images

WIDELY = (1.0, 0.4, 0.1)  # decades to each side in which the gain is looked for when the first pictures are decoded
NEARBY = (0.1,)  # and between the stages
EXACT = 0.999  # cosine that an obfuscation leaves between what is sent and received, below which it is noise


def first_estimate(
    problem: Problem,
    state: State,
    levelled: Levelled,
    features: Float[Tensor, "n features"],
    pictures: Callable[[float], Images],
) -> State:
    """The state with a gain told from pictures, and the pictures that go with it.

    Args:
        problem: The client is simulated on its model.
        state: Its refiner has the first gain, told without pictures.
        levelled: The update.
        features: Separated at the first gain, one row an image.
        pictures: (gain) -> the pictures that are decoded with it.
    """
    assert state.refiner is not None
    first = state.refiner.gain

    def simulate(images: Images) -> Candidate:
        return problem.knowledge.simulate(problem.model, Batch(images, problem.labels))

    judge = GainLikelihood(received=levelled, simulate=simulate, first=first)
    state = settle(replace(state, gain_likelihood=judge), features)
    if state.gain_likelihood is not None:
        gain = judge.best(pictures, start=first, widths=WIDELY)
        state = settle(_with_gain(state, gain), features * (first / gain))
    assert state.refiner is not None
    return replace(state, pictures=pictures(state.refiner.gain))


@dataclass(frozen=True, kw_only=True)
class EstimateGain:
    """Estimate the gain again by the present pictures, where it is not yet settled."""

    steps: int = 0

    def __call__(self, problem: Problem, state: State) -> State:
        """Improve the gain, and the pictures' brightness with it; see `Stage`."""
        if state.refiner is None or state.gain_likelihood is None:
            return state
        before, present = state.refiner.gain, state.pictures

        def pictures(gain: float) -> Images:
            return (present * (before / gain)).clamp(0, 1)

        gain = state.gain_likelihood.best(pictures, start=before, widths=NEARBY)
        state = _with_gain(state, gain)
        assert state.refiner is not None
        with torch.no_grad():
            state = settle(state, state.refiner.head.features(pictures(gain)))
        assert state.refiner is not None
        return replace(state, pictures=pictures(state.refiner.gain))


def settle(state: State, features: Float[Tensor, "n features"]) -> State:
    """Look for the gain at which the head explains its own gradient; where there is one, it is not estimated again.

    Args:
        state: Its refiner has the gain near which the search begins.
        features: Of the present pictures, or separated at the present gain.
    """
    refiner, judge = state.refiner, state.gain_likelihood
    if refiner is None or judge is None or judge.received.clear[refiner.head.weights[0]] < EXACT:
        return state
    gain = consistent_gain(refiner.head, refiner.gradient, refiner.labels, features, refiner.gain * refiner.once)
    return state if gain is None else replace(_with_gain(state, gain / refiner.once), gain_likelihood=None)


def _with_gain(state: State, gain: float) -> State:
    assert state.refiner is not None
    return replace(state, refiner=replace(state.refiner, gain=gain))
