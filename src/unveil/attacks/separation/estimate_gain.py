"""Estimates of an unknown gain, which are repeated as the pictures of a search improve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.gain.consistency import consistent_gain
from unveil.attacks.separation.gain.levels import Levelled
from unveil.attacks.separation.gain.likelihood import GainLikelihood
from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.attacks.separation.state import Problem, State
from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.types import Images

WIDELY = (1.0, 0.4, 0.1)  # decades of gain to each side that each round tries when the first pictures are decoded
NEARBY = (0.1,)  # the same between two stages
EXACT = 0.999  # cosine between a sent tensor and the received one from which on the obfuscation counts as exact


def first_estimate(
    problem: Problem,
    state: State,
    levelled: Levelled,
    features: Float[Tensor, "n features"],
    pictures: Callable[[float], Images],
) -> State:
    """Estimate the gain from decoded pictures, and put the pictures of that gain into the state.

    Args:
        problem: Gives the model and the local training on which the client is simulated.
        state: The state, whose refiner has the first gain, estimated without pictures.
        levelled: The received update without the obfuscation's effect on lengths.
        features: The features that were separated at the first gain, one row for each image.
        pictures: Gain -> the pictures that are decoded at this gain.
    """
    assert isinstance(state.refiner, FeatureRefiner)
    first = state.refiner.gain

    def simulate(images: Images) -> Candidate:
        return problem.knowledge.simulate(problem.model, Batch(images, problem.labels))

    judge = GainLikelihood(received=levelled, simulate=simulate, first=first)
    state = settle(replace(state, gain_likelihood=judge), features)
    if state.gain_likelihood is not None:
        gain = judge.best(pictures, start=first, widths=WIDELY)
        state = settle(_with_gain(state, gain), features * (first / gain))
    assert isinstance(state.refiner, FeatureRefiner)
    return replace(state, pictures=pictures(state.refiner.gain))


@dataclass(frozen=True, kw_only=True)
class EstimateGain:
    """The stage that estimates the gain again from the present pictures, unless the gain is settled.

    Args:
        steps: Steps of the search that the stage takes.
    """

    steps: int = 0

    def __call__(self, problem: Problem, state: State) -> State:
        """Estimate the gain, and scale the pictures to the new gain; see `Stage`."""
        if not isinstance(state.refiner, FeatureRefiner) or state.gain_likelihood is None:
            return state
        before, present = state.refiner.gain, state.pictures

        def pictures(gain: float) -> Images:
            return (present * (before / gain)).clamp(0, 1)

        gain = state.gain_likelihood.best(pictures, start=before, widths=NEARBY)
        state = _with_gain(state, gain)
        assert isinstance(state.refiner, FeatureRefiner)
        with torch.no_grad():
            state = settle(state, state.refiner.head.features(pictures(gain)))
        assert isinstance(state.refiner, FeatureRefiner)
        return replace(state, pictures=pictures(state.refiner.gain))


def settle(state: State, features: Float[Tensor, "n features"]) -> State:
    """Find the gain at which the head explains its own gradient; if there is one, it is not estimated again.

    Args:
        state: The state, whose refiner has the gain at which the search begins.
        features: Features of the present pictures, or those separated at the present gain, one row for each image.
    """
    refiner, judge = state.refiner, state.gain_likelihood
    if (
        not isinstance(refiner, FeatureRefiner)
        or judge is None
        or judge.received.clear[refiner.head.weights[0]] < EXACT
    ):
        return state
    gain = consistent_gain(refiner.head, refiner.gradient, refiner.labels, features, refiner.gain * refiner.once)
    return state if gain is None else replace(_with_gain(state, gain / refiner.once), gain_likelihood=None)


def _with_gain(state: State, gain: float) -> State:
    """Return the state with another gain in its refiner."""
    assert isinstance(state.refiner, FeatureRefiner)
    return replace(state, refiner=replace(state.refiner, gain=gain))
