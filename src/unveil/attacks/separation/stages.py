"""The stage that searches the pictures which have the separated features, after restoring them if it has a restorer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.matching.regularisers import ColourVariation, NearRestored
from unveil.attacks.separation.body import Body
from unveil.attacks.separation.factorisation import with_certainty
from unveil.attacks.separation.inner_maps import ComputesInnerMaps
from unveil.attacks.separation.state import Problem, State, descend
from unveil.attacks.separation.tuning import SearchTuning
from unveil.core.gradient import slopes_of
from unveil.core.reconstruction import FeatureFit
from unveil.core.types import Images
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.learned import Learned


@dataclass(frozen=True, kw_only=True)
class MatchFeatures:
    """Separate the batch with the present pictures, then search smooth pictures that have the separated features.

    Minimises ``1/2 sum_f r_f^T P_f r_f + regulariser(x)`` over the pictures x, where ``r = features(x) - A`` and P is
    the inverse covariance of the errors of A. Maps on the way to the features that are known too add such a sum of
    their own. Because P is computed from the errors D and the obfuscation's noise, the first term is the negative
    log-likelihood of the update. Its gradient takes one backward pass through the body.

    Args:
        steps: Steps of Adam, at least 0.
        lr: Learning rate of the first step, in pixel values a step; a cosine lowers it.
        floor: Standard deviation of the features' errors that is assumed besides, relative to that of all features;
            see `with_certainty`.
        smoothness: Weight of the regulariser for exact features, in nats for a slope of one pixel value a pixel; see
            `noise_adapted_weight` and `feature_sensitivity_of`.
        tuning: The constants of the search.
        restorer: Restores the pictures before the search; `NearRestored` is then the regulariser, and `smoothness` is
            not used. None for no restorer.
        trust: Weight of `NearRestored`, at least 0.
        is_rough: Whether the features of a step need three digits only; see `rough_steps`.
    """

    steps: int
    lr: float
    floor: float
    smoothness: float
    tuning: SearchTuning
    restorer: Learned | None = None
    trust: float = 0.0
    is_rough: bool = True

    def __call__(self, problem: Problem, state: State) -> State:
        """Search the pictures; see `Stage`."""
        refiner = state.refiner
        if refiner is None:
            return state
        near = None
        if self.restorer is not None:
            near = restore(self.restorer, state, trust=self.trust)
            state = replace(state, pictures=near.pictures)
        refiner, separated = refiner(state.pictures)
        target, body, variance = separated.features, refiner.body, separated.variances
        floor = self.floor * state.floors
        precision, misfits = with_certainty(separated, floor), [one.misfit(floor) for one in separated.inner]
        adapted = noise_adapted_weight(separated.noise / float(target.var()), tuning=self.tuning)
        regulariser = near or ColourVariation(
            weight=self.smoothness * state.feature_sensitivity * adapted,
            chroma=self.tuning.colour_weight,
            softness=self.tuning.edge_softness,
        )
        del separated  # its covariances take as much memory as the precisions, and the search does not need them

        def loss(images: Images) -> Float[Tensor, ""]:
            if misfits and isinstance(body, ComputesInnerMaps):
                features, maps = body.features_and_inner(images, rough=self.is_rough)
                further = torch.stack([misfit(found) for misfit, found in zip(misfits, maps, strict=True)]).sum()
                return half_square(features - target, precision) + further + regulariser(images)
            off = body.features(images, rough=self.is_rough) - target
            return half_square(off, precision) + regulariser(images)

        lr = self.lr * state.learning_rates
        state = descend(problem, replace(state, refiner=refiner), loss, steps=self.steps, lr=lr, tuning=self.tuning)
        with torch.no_grad():
            missed = (body.features(state.pictures) - target).square().mean(1)
        spread = target.var()
        least = self.tuning.least_error**2 * spread

        def chi_squared(images: Images) -> Float[Tensor, " n"]:
            return ((body.features(images) - target).square() / variance.T.clamp_min(least)).mean(1)

        evidence = FeatureFit(
            noise=(variance.mean(0) / spread).sqrt(), miss=(missed / spread).sqrt(), chi_squared=chi_squared
        )
        return replace(state, evidence=evidence)


def half_square(off: Float[Tensor, "n features"], precision: Float[Tensor, "one_or_features n n"]) -> Float[Tensor, ""]:
    """Return ``1/2 sum_f off_f^T P_f off_f``; its slope in `off`, P_f off_f, is computed once and not differentiated.

    Args:
        off: Differences of features.
        precision: The symmetric matrix P of each feature, or one for all.
    """
    with torch.no_grad():
        weighted = precision[0] @ off if len(precision) == 1 else torch.bmm(precision, off.T[..., None])[..., 0].T
        rest = 0.5 * (off * weighted).sum()
    return (off * weighted).sum() - rest


def restore(restorer: Learned, state: State, *, trust: float) -> NearRestored:
    """Restore the present pictures, and return the regulariser that prefers pictures near the restored ones.

    Args:
        restorer: The learned prior.
        state: Gives the pictures, and the evidence that conditions the restorer.
        trust: Weight of the regulariser, at least 0.
    """
    pictures, expected = restorer.restored(state.pictures, hints_of(state.evidence, len(state.pictures)))
    return NearRestored(weight=trust, pictures=pictures, expected=expected)


def noise_adapted_weight(noise: float, *, tuning: SearchTuning) -> float:
    """Return the share of the regulariser's weight that is used with noisy features, from 1 to `tuning.noisy_weight`.

    If the features are exact, the regulariser supplies the details that the body lost, and the search converges sooner.
    If they are noisy, the most probable picture under a total variation is flatter than the mean of the probable ones;
    a smaller weight gives a picture that is nearer to the mean.

    Args:
        noise: Mean variance of a feature's error, in units of the features' variance; at least 0.
        tuning: The constants of the search.
    """
    return tuning.noisy_weight + (1 - tuning.noisy_weight) / (1 + tuning.noise_response * noise)


def feature_sensitivity_of(body: Body, pictures: Images, *, tuning: SearchTuning, generator: Generator) -> float:
    """Return the factor of the regulariser's weight for a network, which is 1 for LeNet at 128 px.

    The factor is a power of the mean squared slope of the features with respect to one pixel, relative to LeNet's. The
    features of a deep body change less with a pixel, so the same regulariser would outweigh them.

    Args:
        body: The body of the network.
        pictures: Pictures at which the slopes are computed.
        tuning: Gives LeNet's mean squared slope and the exponent.
        generator: Randomness of the sum of features that is differentiated.
    """
    images = pictures.detach().requires_grad_()
    features = body.as_maps(body.features(images))
    direction = torch.randn(features.shape, generator=generator, device=generator.device).to(features)
    (slope,) = slopes_of((features * direction).sum(), [images])
    curvature = slope.square().mean() / features.detach().var().clamp_min(torch.finfo(slope.dtype).tiny)
    return float((curvature / tuning.reference_sensitivity) ** tuning.sensitivity_exponent)
