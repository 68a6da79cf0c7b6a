"""unveil's own attack: separate the batch, decode each image from its features, and search what the update leaves open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.decoder import Decoder, fit_decoder
from unveil.attacks.head import Head, NoHeadError, read_head
from unveil.attacks.labels import infer_labels
from unveil.attacks.matching import Walk, blind_guess
from unveil.attacks.objectives import check_names
from unveil.attacks.optimisers import Adam
from unveil.attacks.priors import ColourVariation
from unveil.attacks.separation import first_guess, separate, with_certainty, WEAK
from unveil.attacks.separator import Separator
from unveil.core import Images, Knowledge, Reconstruction, Shrinking, Stop, Telling, Update, Watch
from unveil.errors import UsageError
from unveil.spec import spec_of
from unveil.thin import dense


@dataclass(kw_only=True)
class Search:
    """What the stages work on.

    Args:
        separator: Knows the update.
        decoder: Features to pictures at once.
        pictures: The present guess.
        walk: The steps so far.
        stop: Why the last stage ended.
    """

    separator: Separator
    decoder: Decoder
    pictures: Images
    walk: Walk
    stop: Stop = Stop.FINISHED


@runtime_checkable
class Stage(Protocol):
    """One part of the schedule; settings only."""

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures."""
        ...


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Separate with the present pictures, then decode the features again."""

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures; see `Stage`."""
        _, separated = search.separator(search.pictures)
        noise = float(separated.covariance.diagonal(dim1=-2, dim2=-1).mean())
        search.pictures = search.decoder(separated.features, noise)


@dataclass(frozen=True, kw_only=True)
class MatchFeatures:
    """Separate with the present pictures, then search the pictures that have those features and are smooth.

    Minimises ``1/2 sum_f r_f^T P_f r_f + prior(x)`` with ``r = features(x) - A``: the likelihood of the update in the
    first order of the body alone, since P holds what the head's errors and the channel's noise make of each feature.

    Args:
        steps: Steps of Adam.
        lr: Its learning rate at the start; a cosine takes it to a tenth.
        floor: What the features may be off by in any case, relative to their spread.
        smoothness: Weight of the prior.
    """

    steps: int
    lr: float
    floor: float
    smoothness: float

    def __call__(self, search: Search) -> None:
        """Improve the search's pictures; see `Stage`."""
        _, separated = search.separator(search.pictures)
        precision = with_certainty(separated, self.floor)
        target, head = separated.features, search.separator.head
        prior = ColourVariation(weight=self.smoothness)
        x = search.pictures.clone().contiguous(memory_format=torch.channels_last).requires_grad_()

        def closure() -> Tensor:
            off = head.features(x) - target
            if len(precision) == 1:
                weighted = precision[0] @ off
            else:
                weighted = torch.bmm(precision, off.T[..., None])[..., 0].T
            loss = 0.5 * (off * weighted).sum() + prior(x)
            (x.grad,) = torch.autograd.grad(loss, x)
            return loss.detach()

        adam = Adam(lr=self.lr, decay="cosine", final_lr=self.lr / 10, memory=0.99)
        search.stop = search.walk.go(
            x, closure, adam.start([x], self.steps), self.steps, lambda z: z.clamp_(0, 1), lambda: x.detach()
        )
        search.pictures = x.detach()


def first_gain(
    head: Head, knowledge: Knowledge, gradients: list[Tensor], labels: Tensor, examples: Tensor, *, known: bool
) -> float:
    """How much larger the update is than one gradient: the learning rates of all steps, and what the channel did.

    Told from the last layer, whose gradient is nearly the same for all pictures: once the client is simulated on dead
    leaves with the batch's labels, or, where its learning rate or the channel's gain is not known, as received.
    """
    features = examples[torch.arange(len(labels), device=examples.device) % len(examples)]
    once = head.layers(features, labels)[-1]
    slope = once.errors.T @ once.inputs
    sent = gradients[-1]
    if known:
        sent = dense(head.simulate(knowledge.training, features, labels)[head.weights[-1]])
    return max(float((sent * slope).sum() / slope.square().sum()), 1e-12)


@dataclass(frozen=True, kw_only=True)
class Unveil:
    """Separate the batch behind its Linear layers, then rebuild each image from its own features.

    Args:
        steps: Steps of the search, over all its stages.
        smoothness: Weight of the prior.
    """

    name: ClassVar[str] = "unveil"
    steps: int = 80
    smoothness: float = 8.0
    floor: float = 0.05
    weigh: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"Unveil: expected steps >= 1, got {self.steps}; 140 is the usual number")

    def stages(self) -> tuple[Stage, ...]:
        """The schedule."""
        coarse, finer = self.steps * 2 // 7, self.steps * 2 // 7
        fine = self.steps - coarse - finer
        return (
            Decode(),
            Decode(),
            MatchFeatures(steps=coarse, lr=0.05, floor=4 * self.floor, smoothness=self.smoothness),
            MatchFeatures(steps=finer, lr=0.03, floor=2 * self.floor, smoothness=self.smoothness),
            MatchFeatures(steps=fine, lr=0.018, floor=self.floor, smoothness=self.smoothness),
        )

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the attack; see `Attack`."""
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        check_names(update.tensors, parameters)
        update.check()
        device = next(iter(parameters.values())).device
        if update.is_zero:
            return blind_guess(knowledge, device)
        notes: list[str] = []
        labels = knowledge.labels
        if labels is None:
            labels, note = infer_labels(model, update, knowledge)
            notes.append(note)
        labels = labels.to(device)
        head = read_head(model, knowledge.image_shape, training=knowledge.training)
        gradients = [update.tensors[name] for name in head.weights]
        decoder = fit_decoder(head, generator=generator)
        channel = knowledge.obfuscation
        belief = channel.beliefs(update).get(head.weights[0]) if isinstance(channel, Telling) and self.weigh else None
        known = not (isinstance(channel, Shrinking) and channel.loses_scale) and channel is not None and knowledge.scale
        gain = first_gain(head, knowledge, gradients, labels, decoder.examples, known=known)
        features, layers = first_guess(
            head, gradients, labels, gain=gain, classes=gradients[-1].shape[0], rounds=4, ridge=WEAK
        )
        separated = separate(layers[0].errors * gain, gradients[0], ridge=WEAK)
        noise = float(separated.covariance.diagonal(dim1=-2, dim2=-1).mean())
        walk = Walk(steps=self.steps, watch=watch)
        separator = Separator(
            head=head,
            gradient=gradients[0],
            belief=belief,
            labels=labels,
            training=knowledge.training,
            gain=1.0 if known else None,
            gated=head.is_gated,
        )
        search = Search(
            separator=separator,
            decoder=decoder,
            pictures=decoder(head.allowed(features), noise),
            walk=walk,
        )
        for stage in self.stages():
            stage(search)
        return Reconstruction(
            images=search.pictures, labels=labels, losses=walk.losses, stop=search.stop, notes=tuple(notes)
        )

    __str__ = spec_of
