"""The stage that searches pictures by their features, and the stage that restores them first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from unveil.attacks.matching.regularisers import ColourVariation, NearRestored
from unveil.attacks.separation.factorisation import with_certainty
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.state import Problem, State, descend
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.types import FeatureFit, Images
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.learned import Learned


@dataclass(frozen=True, kw_only=True)
class MatchFeatures:
    """Separate with the present pictures, then search the pictures that have those features and are smooth.

    Minimises ``1/2 sum_f r_f^T P_f r_f + regulariser(x)`` over the pictures x, where ``r = features(x) - A`` and P is
    the inverse covariance of A. With P from the errors D and the obfuscation's noise this *is* the update's likelihood
    in the pictures, at the price of a first-order step through the body.

    Args:
        steps: Steps of Adam.
        lr: Its learning rate at the start; a cosine takes it down.
        floor: What the features may be off by in any case, relative to their spread.
        smoothness: Weight of the regulariser where the features are exact; see `noise_adapted_weight` and
            `feature_sensitivity_of`.
        tuning: Of the search.
        restorer: Restores the pictures first, and holds each pixel near its restored value, by as much as it expects
            to be off there, in place of the smoothness; None for none.
        trust: Weight of the restorer.
    """

    steps: int
    lr: float
    floor: float
    smoothness: float
    tuning: SearchTuning
    restorer: Learned | None = None
    trust: float = 0.0

    def __call__(self, problem: Problem, state: State) -> State:
        """Improve the pictures; see `Stage`."""
        refiner = state.refiner
        if refiner is None:
            return state
        near = None
        if self.restorer is not None:
            near = restore(self.restorer, state, trust=self.trust)
            state = replace(state, pictures=near.pictures)
        refiner, separated = refiner(state.pictures)
        target, head = separated.features, refiner.head
        precision = with_certainty(separated, self.floor)
        adapted = noise_adapted_weight(separated.noise / float(target.var()), tuning=self.tuning)
        regulariser = near or ColourVariation(
            weight=self.smoothness * state.feature_sensitivity * adapted,
            chroma=self.tuning.colour_weight,
            softness=self.tuning.edge_softness,
        )

        def loss(images: Images) -> Tensor:
            off = head.features(images, rough=True) - target
            shared = len(precision) == 1
            weighted = precision[0] @ off if shared else torch.bmm(precision, off.T[..., None])[..., 0].T
            return 0.5 * (off * weighted).sum() + regulariser(images)

        state = descend(
            problem, replace(state, refiner=refiner), loss, steps=self.steps, lr=self.lr, tuning=self.tuning
        )
        with torch.no_grad():
            missed = (head.features(state.pictures) - target).square().mean(1)
        spread, variance = target.var(), separated.covariance.diagonal(dim1=-2, dim2=-1)
        least = self.tuning.least_error**2 * spread

        def chi_squared(images: Images) -> Tensor:
            return ((head.features(images) - target).square() / variance.T.clamp_min(least)).mean(1)

        evidence = FeatureFit(
            noise=(variance.mean(0) / spread).sqrt(), miss=(missed / spread).sqrt(), chi_squared=chi_squared
        )
        return replace(state, evidence=evidence)


def restore(restorer: Learned, state: State, *, trust: float) -> NearRestored:
    """The restorer's pictures of the present ones, and the regulariser that holds the next ones near them."""
    pictures, expected = restorer.restored(state.pictures, hints_of(state.evidence, len(state.pictures)))
    return NearRestored(weight=trust, pictures=pictures, expected=expected)


def noise_adapted_weight(noise: float, *, tuning: SearchTuning) -> float:
    """Share of the regulariser's weight that is kept at a noise, from 1 down to `tuning.noisy_weight`.

    With exact features the regulariser fills what the body lost, and speeds the search up. With noisy ones the most
    probable picture under a total variation is flatter than those that are likely: a smaller weight is nearer to their
    mean.

    Args:
        noise: Mean variance of a feature's error, in units of the features' variance.
        tuning: Of the search.
    """
    return tuning.noisy_weight + (1 - tuning.noisy_weight) / (1 + tuning.noise_response * noise)


def feature_sensitivity_of(head: Head, pictures: Images, *, tuning: SearchTuning, generator: Generator) -> float:
    """A power of the mean squared slope of the features in one pixel, relative to LeNet at 128 px.

    A deep body's features say less of a pixel: the same regulariser would outweigh them.

    Args:
        head: The network.
        pictures: Pictures on which the slopes are taken.
        tuning: Of the search: the reference and the exponent.
        generator: Randomness of the direction in which features are differentiated.
    """
    images = pictures.detach().requires_grad_()
    features = head.as_maps(head.features(images))
    direction = torch.randn(features.shape, generator=generator, device=generator.device).to(features)
    (slope,) = torch.autograd.grad((features * direction).sum(), images)
    curvature = slope.square().mean() / features.detach().var().clamp_min(torch.finfo(slope.dtype).tiny)
    return float((curvature / tuning.reference_sensitivity) ** tuning.sensitivity_exponent)
