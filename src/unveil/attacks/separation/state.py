"""What the stages of an attack share: the problem, which stays, and the state, which each stage replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.matching.descent import StepReport, minimise
from unveil.attacks.matching.latents import Pyramid
from unveil.attacks.matching.optimisers import Adam
from unveil.attacks.separation.gain.likelihood import GainLikelihood
from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.protocols import Knowledge
from unveil.core.types import FeatureFit, Images, Stop, Update, Watch


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is given, the same for every stage.

    Args:
        model: The public model.
        update: What was received.
        knowledge: What the attacker was granted.
        labels: One class an image, known or inferred.
        generator: The attack's randomness; drawing from it is the only change that a stage makes in place.
        planned: Steps of all stages together.
        watch: Is told of each step.
    """

    model: Module
    update: Update
    knowledge: Knowledge
    labels: Int[Tensor, " n"]
    generator: Generator
    planned: int = 0
    watch: Watch | None = None

    def report(self, done: int) -> StepReport:
        """Tells the watcher of the steps of a stage before which `done` steps were taken."""
        return StepReport(planned=self.planned, done=done, watch=self.watch)


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What is known so far.

    Args:
        pictures: The present guess.
        losses: The loss before each step, over all stages so far; each stage has a loss of its own.
        refiner: Gives the features that the update says the pictures should have; None where the batch was not
            separated.
        gain_likelihood: Judges gains by the pictures that go with them; None where the gain is known or settled.
        feature_sensitivity: What the regulariser's weight is multiplied by for this network; see
            `feature_sensitivity_of`.
        evidence: How firmly the update held each picture at the end of the last stage of features; None before.
        stop: Why the last search ended.
    """

    pictures: Images
    losses: tuple[float, ...] = ()
    refiner: FeatureRefiner | None = None
    gain_likelihood: GainLikelihood | None = None
    feature_sensitivity: float = 1.0
    evidence: FeatureFit | None = None
    stop: Stop = Stop.FINISHED


@runtime_checkable
class Stage(Protocol):
    """One part of the schedule; settings only."""

    @property
    def steps(self) -> int:
        """Steps that it takes at most."""
        ...

    def __call__(self, problem: Problem, state: State) -> State:
        """A better state; the given one stays as it is."""
        ...


def descend(
    problem: Problem,
    state: State,
    loss: Callable[[Images], Float[Tensor, ""]],
    *,
    steps: int,
    lr: float,
    tuning: SearchTuning,
) -> State:
    """Lower a loss of the pictures by Adam on a pyramid.

    Args:
        problem: Gives the pictures' shape, and who is told of each step.
        state: Gives the pictures to start from.
        loss: Differentiable; is given pictures in [0, 1].
        steps: Steps of Adam.
        lr: Learning rate of the first step; a cosine takes it down, see `SearchTuning`.
        tuning: Of the search.
    """
    latent, shape, base = Pyramid(), problem.knowledge.image_shape, state.pictures
    z = latent.init(len(base), shape, generator=problem.generator).to(base).requires_grad_()

    def closure() -> Tensor:
        free = base + latent.decode(z, shape)
        images = free.clamp(0, 1)
        total = loss(images) + tuning.outside_price * (free - images.detach()).square().sum()
        (z.grad,) = torch.autograd.grad(total, z)
        return total.detach()

    def pictures() -> Images:
        return (base + latent.decode(z, shape)).detach().clamp(0, 1)

    adam = Adam(lr=lr, decay="cosine", final_lr=lr / tuning.final_divisor, memory=tuning.adam_memory)
    losses, stop = minimise(
        z,
        closure,
        adam.start([z], steps),
        steps,
        project=latent.project,
        images=pictures,
        report=problem.report(len(state.losses)),
        tolerance=tuning.settled,
    )
    return replace(state, pictures=pictures(), losses=(*state.losses, *losses), stop=stop)
