"""The stages of unveil's attack: small settings objects, each of which improves the pictures of one search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.matching.latents import Pyramid
from unveil.attacks.matching.loop import Walk
from unveil.attacks.matching.optimisers import Adam
from unveil.attacks.matching.regularisers import ColourVariation, NearRestored
from unveil.attacks.separation.factorisation import with_certainty
from unveil.attacks.separation.gain.likelihood import Scale
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.refinement import FeatureRefiner
from unveil.core.objectives import OBJECTIVES
from unveil.core.protocols import HasEntryModels, Knowledge
from unveil.core.types import Batch, FeatureFit, Images, Stop, Update
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.learned import restored, shipped_restorer

SETTLED = 1e-3  # a stage ends where its loss changes by less than this share in the loop's patience
LENET = 10.9  # squared slope of LeNet's features in one pixel, in units of their variance
EXACT = 1e-4  # features are not taken to be surer than this, in units of their spread
OUTSIDE = 1e3  # price of a squared step out of [0, 1], in nats; the pictures themselves are clamped


@dataclass(kw_only=True)
class Search:
    """What the stages work on.

    Args:
        model: The public model.
        update: What was received.
        knowledge: What the attacker was granted.
        labels: One class an image.
        pictures: The present guess.
        walk: The steps so far.
        generator: The attack's randomness.
        separator: Separates the batch; None where it cannot be.
        scale: Tells the gain by pictures; None where it is known, or nothing was separated.
        grip: What the prior's weight is multiplied by for this network; see `feature_sensitivity_of`.
        evidence: How firmly the update held each picture at the end of the last stage of features; None before.
        stop: Why the last stage ended.
    """

    model: Module
    update: Update
    knowledge: Knowledge
    labels: Tensor
    pictures: Images
    walk: Walk
    generator: Generator
    separator: FeatureRefiner | None = None
    scale: Scale | None = None
    feature_sensitivity: float = 1.0
    evidence: FeatureFit | None = None
    stop: Stop = Stop.FINISHED

    def restore(self, *, trust: float = 1.0) -> NearRestored:
        """Put the learned restorer's pictures in place of the present ones, and hold the next ones near them."""
        hints = hints_of(self.evidence, len(self.pictures))
        self.pictures, expected = restored(shipped_restorer(), self.pictures, hints)
        return NearRestored(weight=trust, pictures=self.pictures, expected=expected)

    def descend(self, loss: Callable[[Images], Tensor], *, steps: int, lr: float) -> None:
        """Lower a loss of the pictures by Adam on a pyramid, with what the one loop does about trouble."""
        latent, shape = Pyramid(), self.knowledge.image_shape
        base = self.pictures
        z = latent.init(len(base), shape, generator=self.generator).to(base).requires_grad_()

        def closure() -> Tensor:
            free = base + latent.decode(z, shape)
            images = free.clamp(0, 1)
            total = loss(images) + OUTSIDE * (free - images.detach()).square().sum()
            (z.grad,) = torch.autograd.grad(total, z)
            return total.detach()

        def pictures() -> Tensor:
            return (base + latent.decode(z, shape)).detach().clamp(0, 1)

        adam = Adam(lr=lr, decay="cosine", final_lr=lr / 10, memory=0.99)
        self.stop = self.walk.go(z, closure, adam.start([z], steps), steps, latent.project, pictures, least=SETTLED)
        self.pictures = pictures()


@runtime_checkable
class Stage(Protocol):
    """One part of the schedule; settings only."""

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        ...

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures."""
        ...


@dataclass(frozen=True, kw_only=True)
class MatchFeatures:
    """Separate with the present pictures, then search the pictures that have those features and are smooth.

    Minimises ``1/2 sum_f r_f^T P_f r_f + prior(x)`` over the pictures x, where ``r = features(x) - A`` and P is the
    inverse covariance of A. With P from the errors D and the channel's noise this *is* the update's likelihood in the
    pictures, at the price of a first-order step through the body.

    Args:
        steps: Steps of Adam.
        lr: Its learning rate at the start; a cosine takes it to a tenth.
        floor: What the features may be off by in any case, relative to their spread.
        smoothness: Weight of the prior where the features are exact; see `noise_adapted_weight` and
            `feature_sensitivity_of`.
        trust: Weight of the learned prior; where it is above 0 the pictures are restored first, and the prior holds
            each pixel near its restored value, by as much as the restorer expects to be off there.
    """

    steps: int
    lr: float
    floor: float
    smoothness: float
    trust: float = 0.0

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures; see `Stage`."""
        if search.separator is None:
            return
        held = search.restore(trust=self.trust) if self.trust else None
        separated = search.separator(search.pictures)
        target, head = separated.features, search.separator.head
        precision = with_certainty(separated, self.floor)
        adapted = noise_adapted_weight(separated.noise / float(target.var()))
        prior = held or ColourVariation(weight=self.smoothness * search.feature_sensitivity * adapted)

        def loss(images: Images) -> Tensor:
            off = head.features(images, rough=True) - target
            shared = len(precision) == 1
            weighted = precision[0] @ off if shared else torch.bmm(precision, off.T[..., None])[..., 0].T
            return 0.5 * (off * weighted).sum() + prior(images)

        search.descend(loss, steps=self.steps, lr=self.lr)
        with torch.no_grad():
            missed = (head.features(search.pictures) - target).square().mean(1)
        spread, variance = target.var(), separated.covariance.diagonal(dim1=-2, dim2=-1)
        least = EXACT**2 * spread

        def chi_squared(images: Images) -> Tensor:
            return ((head.features(images) - target).square() / variance.T.clamp_min(least)).mean(1)

        search.evidence = FeatureFit(
            noise=(variance.mean(0) / spread).sqrt(), miss=(missed / spread).sqrt(), chi_squared=chi_squared
        )


def noise_adapted_weight(noise: float) -> float:
    """What is left of the prior's weight at a noise, in shares of the features' variance: from 1 down to 0.3.

    With exact features the prior fills what the body lost, and speeds the search up. With noisy ones the most probable
    picture under a total variation is flatter than those that are likely: a smaller weight is nearer to their mean.
    Chosen on the published batch between 0 and 0.4.
    """
    return 0.3 + 0.7 / (1 + 20 * noise)


def feature_sensitivity_of(head: Head, pictures: Images, *, generator: Generator) -> float:
    """How firmly features hold single pixels, the cube root of it, 1 for LeNet at 128 pixels.

    A deep body's features say less of a pixel: the same prior would outweigh them. The root was chosen between LeNet
    and the paper's ResNet-18, whose best weight is about a third at a fifteenth of the curvature.
    """
    images = pictures.detach().requires_grad_()
    features = head.as_maps(head.features(images))
    direction = torch.randn(features.shape, generator=generator, device=generator.device).to(features)
    (slope,) = torch.autograd.grad((features * direction).sum(), images)
    curvature = slope.square().mean() / features.detach().var().clamp_min(torch.finfo(slope.dtype).tiny)
    return float((curvature / LENET) ** (1 / 3))


@dataclass(frozen=True, kw_only=True)
class MatchUpdates:
    """Search the pictures whose simulated update is like the received one and that are smooth.

    Judged by the channel's own misfit where some entries say more than others, else by the cosine, which needs no
    scale. Where a network's loss has many valleys the start decides: several are tried for a while, and the one that
    explains the update best goes on.

    Args:
        steps: Steps of Adam, each a gradient of a gradient, over all starts.
        lr: Its learning rate at the start; a cosine takes it to a tenth.
        smoothness: Weight of the prior's mean over pixels.
        starts: Starts that are tried, the present pictures the first of them, with a fifth of the steps together.
    """

    steps: int
    lr: float
    smoothness: float
    starts: int = 1

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures; see `Stage`."""
        knowledge = search.knowledge
        name = "misfit" if isinstance(knowledge.obfuscation, HasEntryModels) else "cosine"
        misfit = OBJECTIVES[name](search.update, knowledge)
        pixels = len(search.pictures) * search.pictures.shape[2] * search.pictures.shape[3]
        prior = ColourVariation(weight=self.smoothness / pixels)

        def loss(images: Images) -> Tensor:
            simulated = knowledge.simulate(search.model, Batch(images, search.labels))
            return misfit(simulated) + prior(images)

        trial = self.steps // 5 // self.starts if self.starts > 1 else 0
        if trial:
            found = []
            for start in (search.pictures, *(clouds(search) for _ in range(1, self.starts))):
                search.pictures = start
                search.descend(loss, steps=trial, lr=self.lr)
                found.append((search.walk.losses[-1], search.pictures))
            search.pictures = min(found, key=lambda pair: pair[0])[1]
        search.descend(loss, steps=self.steps - trial * self.starts, lr=self.lr)


def clouds(search: Search) -> Images:
    """Random pictures without any detail, to start from."""
    before, generator = search.pictures, search.generator
    n, channels, height, width = before.shape
    small = torch.rand((n, channels, -(-height // 8), -(-width // 8)), generator=generator, device=generator.device)
    return F.interpolate(small.to(before), size=(height, width), mode="bilinear", align_corners=False)
