"""Search on where the features of a picture are exact and at least as many as its pixels.

There the features alone decide, so the regulariser's weight is lowered step by step. A network with ReLU and
max-pooling has pictures at which a search ends although their features are not the separated ones, mostly in some of
their regions. So the pictures are disturbed there and searched again, several times. What a region of the new picture
explains better is taken over, and a picture is replaced where all of its new features together are nearer.

Reference:
    Wales and Doye, Global Optimization by Basin-Hopping, Journal of Physical Chemistry A, 1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.separation.peeling.peel import EXACT
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State
from unveil.core.types import Images

# Each search: its smoothness and its learning rate, relative to those of the search before this stage.
EASED = ((0.3, 1.0), (0.1, 0.5), (0.03, 0.3))
HOP = ((1.0, 2.0), (0.3, 1.0), (0.03, 0.3))
HOPS = 8  # times that the pictures are disturbed
SHARE = 0.5  # steps of a search after a hop, relative to those of the search before this stage
REGION = 2  # side of a region that is disturbed as one, in pixels
DISTURBED = 0.15  # largest standard deviation of the change of a region, in pixel values


@dataclass(frozen=True, kw_only=True)
class SearchDetermined:
    """Search pictures that exact features determine, from several disturbed ones; see `Stage` and `Conditional`.

    Args:
        search: The search before this stage, without a restorer.
    """

    search: MatchFeatures

    @property
    def steps(self) -> int:
        """Number of steps that all searches take at most."""
        return sum(stage.steps for stage in (*self._eased, *HOPS * (*self._hop, self._hop[-1])))

    def applies(self, state: State) -> bool:
        """Return whether the features of the present pictures are exact and at least as many as their pixels."""
        if state.refiner is None:
            return False
        estimate = state.refiner(state.pictures)[1]
        is_exact = estimate.noise == 0 and estimate.residual <= EXACT
        return is_exact and estimate.features.shape[1] >= state.pictures[0].numel()

    def __call__(self, problem: Problem, state: State) -> State:
        """Search the pictures with less and less smoothness, then again from disturbed ones; see `Stage`."""
        state = _searched(self._eased, problem, state)
        for _ in range(HOPS):
            here = missed(state)
            start = disturbed(state.pictures, here, generator=problem.generator)
            found = _searched(self._hop, problem, replace(state, pictures=start))
            better = _enlarged((missed(found) < here).to(start), start)
            mixed = replace(found, pictures=state.pictures.lerp(found.pictures, better))
            state = nearer(state, found)
            state = nearer(state, _searched(self._hop[-1:], problem, mixed))
        return state

    @property
    def _eased(self) -> tuple[MatchFeatures, ...]:
        return tuple(self._with(*factors, steps=self.search.steps) for factors in EASED)

    @property
    def _hop(self) -> tuple[MatchFeatures, ...]:
        steps = max(1, round(SHARE * self.search.steps))
        return tuple(self._with(*factors, steps=steps) for factors in HOP)

    def _with(self, smoothness: float, lr: float, *, steps: int) -> MatchFeatures:
        """Return the search in full precision, with these factors of its smoothness and learning rate."""
        search = self.search
        return replace(
            search, steps=steps, smoothness=smoothness * search.smoothness, lr=lr * search.lr, is_rough=False
        )


def missed(state: State) -> Float[Tensor, "n 1 rows columns"]:
    """Return the mean squared difference from the separated features at each place of the feature map and beside it."""
    refiner = state.refiner
    if refiner is None:
        raise AssertionError("the stage was run on a batch that was not separated")
    body, target = refiner.body, refiner(state.pictures)[1].features
    with torch.no_grad():
        off = body.as_maps(body.features(state.pictures) - target).square().mean(1, keepdim=True)
    return F.avg_pool2d(F.pad(off, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def disturbed(pictures: Images, off: Float[Tensor, "n 1 rows columns"], *, generator: Generator) -> Images:
    """Return the pictures with independent changes of small regions, which are interpolated between their centres.

    Args:
        pictures: The pictures.
        off: What they miss at each place of the feature map. Where it is below the picture's mean, a region is changed
            less in proportion.
        generator: Randomness of the changes.
    """
    n, channels, *size = pictures.shape
    regions = (n, channels, *(-(-side // REGION) for side in size))
    change = DISTURBED * torch.randn(regions, generator=generator, device=generator.device).to(pictures)
    share = (off / off.mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(off.dtype).tiny)).clamp(max=1)
    return (pictures + _enlarged(share, pictures) * _enlarged(change, pictures)).clamp(0, 1)


def nearer(state: State, other: State) -> State:
    """Return the state with the pictures of another one where these miss the separated features by less.

    Args:
        state: The state to replace; both are results of a search for the same features.
        other: The state after one more search, whose losses are kept.
    """
    before, after = state.evidence, other.evidence
    if before is None or after is None:
        return state
    better = after.miss < before.miss  # not true for a search that diverged
    pictures = torch.where(better[:, None, None, None], other.pictures, state.pictures)
    evidence = replace(before, miss=torch.where(better, after.miss, before.miss))
    return replace(state, pictures=pictures, losses=other.losses, evidence=evidence)


def _searched(stages: Sequence[MatchFeatures], problem: Problem, state: State) -> State:
    for stage in stages:
        state = stage(problem, state)
    return state


def _enlarged(values: Float[Tensor, "n _ rows columns"], like: Images) -> Float[Tensor, "n _ height width"]:
    return F.interpolate(values, size=like.shape[2:], mode="bilinear", align_corners=False)
