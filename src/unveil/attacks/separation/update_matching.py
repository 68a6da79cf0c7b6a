"""The stage for batches that cannot be separated: it searches pictures whose simulated update is the received one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.matching.regularisers import ColourVariation
from unveil.attacks.separation.explained import LEAST, explained_share
from unveil.attacks.separation.state import Problem, Stage, State, descend
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.batch import Batch
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import HasEntryModels, Misfit
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class MatchUpdates:
    """Search smooth pictures whose simulated update is like the received one.

    The distance between updates is the obfuscation's misfit if the obfuscation has entry models, else the cosine
    distance, which does not depend on the lengths. A network's loss may have many local minima, so several starts may
    be tried for some steps; the search goes on from the one of the lowest loss.

    Args:
        steps: Steps of Adam over all starts, at least 0. Each step differentiates a simulated gradient.
        lr: Learning rate of the first step, in pixel values a step; a cosine lowers it.
        smoothness: Weight of the regulariser, which is a mean over the pixels.
        tuning: The constants of the search.
        starts: Number of starts that are tried, at least 1. The first is the present pictures. Together they take the
            steps divided by `start_divisor`.
    """

    steps: int
    lr: float
    smoothness: float
    tuning: SearchTuning
    starts: int = 1

    @classmethod
    def of(cls, tuning: SearchTuning, *, steps: int, smoothness: float, starts: int = 1) -> MatchUpdates:
        """Return the stage with the learning rate and the share of the smoothness that a tuning gives.

        Args:
            tuning: The constants of the search.
            steps: Steps of Adam over all starts.
            smoothness: Smoothness of the attack, which is divided by `matched_divisor`.
            starts: Number of starts that are tried.
        """
        smoothness /= tuning.matched_divisor
        return cls(steps=steps, lr=tuning.matched_learning_rate, smoothness=smoothness, starts=starts, tuning=tuning)

    def __call__(self, problem: Problem, state: State) -> State:
        """Search the pictures; see `Stage`."""
        knowledge = problem.knowledge
        misfit = objective_of(problem)
        pixels = len(state.pictures) * state.pictures.shape[2] * state.pictures.shape[3]
        regulariser = ColourVariation(
            weight=self.smoothness / pixels, chroma=self.tuning.colour_weight, softness=self.tuning.edge_softness
        )

        def loss(images: Images) -> Float[Tensor, ""]:
            simulated = knowledge.simulate(problem.model, Batch(images, problem.labels))
            return misfit(simulated) + regulariser(images)

        trial = self.steps // self.tuning.start_divisor // self.starts if self.starts > 1 else 0
        if trial:
            first = state.pictures
            others = [clouds(first, generator=problem.generator) for _ in range(1, self.starts)]
            tried: list[tuple[float, Images]] = []
            for start in (first, *others):
                before = len(state.losses)
                state = descend(
                    problem, replace(state, pictures=start), loss, steps=trial, lr=self.lr, tuning=self.tuning
                )
                # A start whose first step diverged has no loss, and must not be judged by that of an earlier start.
                last = state.losses[-1] if len(state.losses) > before else math.inf
                tried.append((last, state.pictures))
            state = replace(state, pictures=min(tried, key=lambda pair: pair[0])[1])
        return descend(problem, state, loss, steps=self.steps - trial * self.starts, lr=self.lr, tuning=self.tuning)


@dataclass(frozen=True, kw_only=True)
class KeepIfExplained:
    """The stage after matching: it hands back the pictures before the search if those after it explain no more.

    Args:
        search: The stage of the search.
    """

    search: Stage

    @property
    def steps(self) -> int:
        """The steps of the search."""
        return self.search.steps

    def __call__(self, problem: Problem, state: State) -> State:
        """Search the pictures, and compare what they explain; see `Stage`."""
        searched = self.search(problem, state)
        share = explained_share(problem, searched.pictures, blank=state.pictures)
        if share >= LEAST:
            return searched
        note = (
            f"Of what the grey picture leaves unexplained of the update, the pictures that the search found explain "
            f"{max(share, 0):.0%} in the median tensor, less than {LEAST:.0%}, so the grey picture is handed back. "
            "That is a failed attack, and not evidence that nothing leaks."
        )
        return replace(searched, pictures=state.pictures, notes=(*searched.notes, note))


def objective_of(problem: Problem) -> Misfit:
    """Return the distance of a candidate update: the obfuscation's misfit if it has entry models, else the cosine."""
    name = "misfit" if isinstance(problem.knowledge.obfuscation, HasEntryModels) else "cosine"
    return OBJECTIVES[name](problem.update, problem.knowledge)


def clouds(like: Images, *, generator: Generator) -> Images:
    """Draw random pictures without details, at which a search starts.

    Args:
        like: Pictures whose shape, type and device the result has.
        generator: Randomness of the pictures.
    """
    n, channels, height, width = like.shape
    small = torch.rand((n, channels, -(-height // 8), -(-width // 8)), generator=generator, device=generator.device)
    return F.interpolate(small.to(like), size=(height, width), mode="bilinear", align_corners=False)
