"""The stage for batches that cannot be separated: search the pictures whose simulated update is the received one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unveil.attacks.matching.regularisers import ColourVariation
from unveil.attacks.separation.state import Problem, State, descend
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import HasEntryModels
from unveil.core.types import Batch, Images


@dataclass(frozen=True, kw_only=True)
class MatchUpdates:
    """Search the pictures whose simulated update is like the received one and that are smooth.

    Judged by the obfuscation's own misfit where some entries say more than others, else by the cosine, which needs no
    scale. Where a network's loss has many valleys the start decides: several are tried for a while, and the one that
    explains the update best goes on.

    Args:
        steps: Steps of Adam, each a gradient of a gradient, over all starts.
        lr: Its learning rate at the start; a cosine takes it down.
        smoothness: Weight of the regulariser's mean over pixels.
        tuning: Of the search.
        starts: Starts that are tried, the present pictures the first of them; they share the steps divided by
            `start_divisor`.
    """

    steps: int
    lr: float
    smoothness: float
    tuning: SearchTuning
    starts: int = 1

    @classmethod
    def of(cls, tuning: SearchTuning, *, steps: int, smoothness: float, starts: int = 1) -> MatchUpdates:
        """The stage with the tuning's learning rate and its share of the attack's smoothness."""
        smoothness /= tuning.matched_divisor
        return cls(steps=steps, lr=tuning.matched_learning_rate, smoothness=smoothness, starts=starts, tuning=tuning)

    def __call__(self, problem: Problem, state: State) -> State:
        """Improve the pictures; see `Stage`."""
        knowledge = problem.knowledge
        name = "misfit" if isinstance(knowledge.obfuscation, HasEntryModels) else "cosine"
        misfit = OBJECTIVES[name](problem.update, knowledge)
        pixels = len(state.pictures) * state.pictures.shape[2] * state.pictures.shape[3]
        regulariser = ColourVariation(
            weight=self.smoothness / pixels, chroma=self.tuning.colour_weight, softness=self.tuning.edge_softness
        )

        def loss(images: Images) -> Tensor:
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
                # A start that diverged in its first step has no loss of its own.
                last = state.losses[-1] if len(state.losses) > before else math.inf
                tried.append((last, state.pictures))
            state = replace(state, pictures=min(tried, key=lambda pair: pair[0])[1])
        return descend(problem, state, loss, steps=self.steps - trial * self.starts, lr=self.lr, tuning=self.tuning)


def clouds(like: Images, *, generator: Generator) -> Images:
    """Random pictures without any detail, to start from."""
    n, channels, height, width = like.shape
    small = torch.rand((n, channels, -(-height // 8), -(-width // 8)), generator=generator, device=generator.device)
    return F.interpolate(small.to(like), size=(height, width), mode="bilinear", align_corners=False)
