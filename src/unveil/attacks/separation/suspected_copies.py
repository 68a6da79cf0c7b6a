"""Copies that an obfuscation hides: images that may be one picture are also tried as one.

Through top-k or a coarse quantiser the second row of errors that the search finds for two copies is no row of chance,
which `find_alike` would notice. It is the first row with a few wrong gates, and it explains a part of the obfuscation's
noise. Features that are separated with two rows so alike are wrong. So where rows of one class are nearly parallel, two
short searches are made, with the images as they were separated and with one picture for each group of such images. The
pictures after these searches are compared by the received update alone. Distinct images with rows so alike are not told
apart either way: one picture, their blend, is nearer to each of them than wrong features are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State
from unveil.core.batch import Batch
from unveil.core.objectives import OBJECTIVES
from unveil.core.types import Images

# Chosen on 20 batches of four and six pictures behind LeNet at 32 px (CIFAR-10, dead leaves), through top-k at 5 % and
# the ternary quantiser. All but one of 28 pairs of copies had a cosine above 0.8, and pairs of distinct pictures 0.42
# to 0.95. One picture for suspects was nearer to the truth in 18 of the 20, even for distinct ones. The bound keeps the
# two others as they were separated, and also five in which one picture would have been better.
PARALLEL = 0.8
SHARE = 0.3  # of the attack's steps, which each short search takes
FEWEST = 6  # steps of each stage of a short search, at least
BETTER = 0.99  # product of the ratios of both objectives, of one picture to separate ones, below which it is kept


@dataclass(frozen=True, kw_only=True)
class Explained:
    """How badly pictures explain the received update, by two objectives.

    Args:
        cosine: The cosine distance of the simulated update, 0 to 2.
        misfit: The misfit in units of that of an all-zero candidate; 0 where the length of the update was estimated.
    """

    cosine: float
    misfit: float

    def ratio_to(self, other: Explained) -> float:
        """Return the product of the ratios of both objectives; below 1 if this explains the update better.

        Pictures with a misfit of 1 or more explain less than no update at all, so their misfits are not compared.
        """
        cosine = self.cosine / max(other.cosine, 1e-30)
        return cosine * (self.misfit / other.misfit if 0 < other.misfit < 1 and self.misfit < 1 else 1.0)


@dataclass(frozen=True, kw_only=True)
class TryAsCopies:
    """The stage after a separation: images whose errors are nearly parallel get one picture if that explains more.

    Args:
        trial: The stages of the short search; see `shortened`.
        steps: Steps of the attack that the stage counts as.
    """

    trial: tuple[MatchFeatures, ...]
    steps: int = 0

    def __call__(self, problem: Problem, state: State) -> State:
        """Return the state with or without such groups; see `Stage`."""
        refiner = state.refiner
        if not isinstance(refiner, FeatureRefiner) or refiner.exact or refiner.errors is None:
            return state
        if not refiner.head.is_gated:
            return state
        alone = torch.arange(len(problem.labels)).to(problem.labels)
        before = alone if refiner.alike is None else refiner.alike
        alike = suspects(refiner.errors, problem.labels, before)
        if len(torch.unique(alike)) == len(torch.unique(before)):
            return state
        shared = with_one_picture(state, refiner, alike)
        apart, together = self._tried(problem, state), self._tried(problem, shared)
        return shared if together.ratio_to(apart) < BETTER else state

    def _tried(self, problem: Problem, state: State) -> Explained:
        """Return how badly the pictures of a short search explain the update."""
        trial = problem.apart()
        for stage in self.trial:
            state = stage(trial, state)
        length_is_known = not (isinstance(state.refiner, FeatureRefiner) and state.refiner.estimated)
        with torch.no_grad():
            simulated = problem.knowledge.simulate(problem.model, Batch(state.pictures, problem.labels))
            cosine = OBJECTIVES["cosine"](problem.update, problem.knowledge)(simulated)
            misfit = OBJECTIVES["misfit"](problem.update, problem.knowledge)(simulated) if length_is_known else 0.0
        return Explained(cosine=float(cosine), misfit=float(misfit))


def shortened(stages: Sequence[MatchFeatures]) -> tuple[MatchFeatures, ...]:
    """Return the stages of a short search: those that restore no pictures, with fewer steps."""
    return tuple(
        replace(stage, steps=max(FEWEST, round(SHARE * stage.steps))) for stage in stages if stage.restorer is None
    )


def suspects(errors: Float[Tensor, "n out"], labels: Int[Tensor, " n"], alike: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return for each image the first image of its group; images of one class with nearly parallel errors are a group.

    Args:
        errors: The errors of the separated batch.
        labels: The class index of each image.
        alike: For each image the index of the image whose picture it shares already; its own index if it shares none.
    """
    n, rows = len(labels), F.normalize(errors, dim=1)
    together = (rows @ rows.T >= PARALLEL) & (labels[:, None] == labels) | (alike[:, None] == alike)
    first = torch.arange(n, device=labels.device)
    for _ in range(n):
        first = torch.where(together, first, n).amin(1)
    return first


def with_one_picture(state: State, refiner: FeatureRefiner, alike: Int[Tensor, " n"]) -> State:
    """Return the state in which images share the picture of the image that `alike` names; see `find_alike`."""
    return replace(
        state,
        pictures=averaged(state.pictures, alike),
        refiner=replace(refiner, alike=alike, errors=torch.as_tensor(refiner.errors)[alike], patterns=None),
    )


def averaged(pictures: Images, alike: Int[Tensor, " n"]) -> Images:
    """Return the mean picture of each group at all places of its images."""
    same = (alike[:, None] == alike).to(pictures)
    mean: Tensor = torch.einsum("ij,jchw->ichw", same / same.sum(1, keepdim=True), pictures)
    return mean
