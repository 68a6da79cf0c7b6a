"""The data of an attack's stages: the problem, which does not change, and the state, which each stage replaces."""

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
from unveil.attacks.separation.body import Body
from unveil.attacks.separation.factorisation import FeatureEstimate
from unveil.attacks.separation.gain.likelihood import GainLikelihood
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import FeatureFit, Stop
from unveil.core.types import Images
from unveil.core.update import Update
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The data that are the same for every stage.

    Args:
        model: The public model.
        update: The received update.
        knowledge: The attacker's knowledge.
        labels: The class index of each image, known or inferred.
        generator: Randomness of the attack. Nothing else of the problem is changed by a stage.
        planned: Steps of all stages together.
        watch: Called after each step; None for none.
    """

    model: Module
    update: Update
    knowledge: Knowledge
    labels: Int[Tensor, " n"]
    generator: Generator
    planned: int = 0
    watch: Watch | None = None

    def report(self, done: int) -> StepReport:
        """Return the function that reports the steps of a stage before which `done` steps were taken."""
        return StepReport(planned=self.planned, done=done, watch=self.watch)

    def apart(self) -> Problem:
        """Return the problem for a search on trial, which changes neither the attack's randomness nor its progress."""
        generator = Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        return replace(self, generator=generator, watch=None)


@runtime_checkable
class Refiner(Protocol):
    """Gives the features that each image's pictures should have, again for each new guess of the pictures."""

    @property
    def body(self) -> Body:
        """Computes the features from pictures."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of a report: how the features were found."""
        ...

    def __call__(self, pictures: Images) -> tuple[Refiner, FeatureEstimate]:
        """Return the refiner for the next pictures, and the features.

        Args:
            pictures: The present pictures, n x c x h x w in [0, 1].
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """The results of the stages so far.

    Args:
        pictures: The present pictures, in [0, 1].
        losses: The loss before each step of all stages so far; each stage has a different loss.
        refiner: Gives the features of the present pictures; None if the batch was not separated.
        gain_likelihood: Compares gains by their pictures; None if the gain is known or settled.
        feature_sensitivity: Factor of the regulariser's weight for this network; see `feature_sensitivity_of`.
        floors: Factor of the feature floors of every stage; 1 unless the batch was separated by closed gates.
        learning_rates: Factor of the learning rate of every stage that matches features; see `ChooseLearningRate`.
        evidence: Noise and misses of the pictures' features after the last stage that matched features; None before.
        stop: Why the last search ended.
        notes: What stages have to say about the result, a sentence or more each.
    """

    pictures: Images
    losses: tuple[float, ...] = ()
    refiner: Refiner | None = None
    gain_likelihood: GainLikelihood | None = None
    feature_sensitivity: float = 1.0
    floors: float = 1.0
    learning_rates: float = 1.0
    evidence: FeatureFit | None = None
    stop: Stop = Stop.FINISHED
    notes: tuple[str, ...] = ()


@runtime_checkable
class Stage(Protocol):
    """The settings of one stage of a schedule."""

    @property
    def steps(self) -> int:
        """Number of steps that the stage takes at most."""
        ...

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state after the stage; the given state is not changed."""
        ...


@runtime_checkable
class Conditional(Protocol):
    """A stage that is left out after some states."""

    def applies(self, state: State) -> bool:
        """Return whether the stage is run after this state; False while that is not known."""
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
    """Minimise a loss of the pictures by Adam on a `Pyramid`.

    Args:
        problem: Gives the shape of the pictures and the watcher.
        state: Gives the pictures at which the search starts.
        loss: Computes the loss of pictures in [0, 1]; differentiable.
        steps: Steps of Adam, at least 0.
        lr: Learning rate of the first step, in pixel values a step; a cosine lowers it, see `SearchTuning`.
        tuning: The constants of the search.

    Returns:
        The state with new pictures, the losses of the search, and why it ended.
    """
    latent, shape, base = Pyramid(), problem.knowledge.image_shape, state.pictures
    z = latent.init(len(base), shape, generator=problem.generator).to(base).requires_grad_()

    def closure() -> Float[Tensor, ""]:
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
