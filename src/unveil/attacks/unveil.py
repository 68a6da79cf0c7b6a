"""unveil's own attack: separate the batch, decode each image from its features, search what the update leaves open.

docs/method.md has the equations and says whose idea is what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.confidence import confidence
from unveil.attacks.decoder import fit_decoder
from unveil.attacks.head import Head, NoHeadError, read_head
from unveil.attacks.labels import infer_labels
from unveil.attacks.leaves import dead_leaves
from unveil.attacks.matching import Walk, blind_guess
from unveil.attacks.objectives import OBJECTIVES, checked
from unveil.attacks.separation import first_guess, separate
from unveil.attacks.separator import ROUGH, Separator
from unveil.attacks.stages import MatchFeatures, MatchUpdates, Search, Stage, grip_of
from unveil.bounds import not_negative, whole
from unveil.core import Batch, Belief, Images, Knowledge, Reconstruction, Shrinking, Telling, Update, Watch
from unveil.spec import spec_of
from unveil.thin import dense

ROUNDS = 4  # of errors from features and features from errors, before there are pictures
UNLIKE = 0.2  # cosine below which two gradients of a last layer have too little in common to be compared
SCHEDULE = ((0.03, 0.2), (0.025, 0.1), (0.02, 0.05), (0.015, 0.05), (0.01, 0.05))  # learning rate, floor of each stage
REREADS = 2  # of gates read from the update with those features


@dataclass(frozen=True, kw_only=True)
class Unveil:
    """Separate the batch behind its Linear layers, then rebuild each image from its own features.

    Where the batch cannot be separated (pooled features, more images than equations, no Linear layer) it says so and
    matches updates instead.

    Args:
        steps: Steps of the search, over all its stages.
        smoothness: Weight of the prior beside the update's log-likelihood, in nats a unit of slope; eased by noise.
        starts: Starts that are tried where updates are matched; the one that explains the update best goes on.

    Reference:
        docs/method.md; the separation after Geng et al., Towards General Deep Leakage in Federated Learning, 2021.
    """

    name: ClassVar[str] = "unveil"
    steps: int = 100
    smoothness: float = 12.0
    starts: int = 1

    def __post_init__(self) -> None:
        whole("Unveil", "steps", self.steps, 1, 1_000_000, "100 is the usual number")
        not_negative("Unveil", "smoothness", self.smoothness, "0 switches it off")
        whole("Unveil", "starts", self.starts, 1, 1_000_000, "1 begins with the grey picture alone")

    def stages(self, *, separated: bool) -> tuple[Stage, ...]:
        """The schedule, with or without the features of single images."""
        if not separated:
            return (MatchUpdates(steps=self.steps, lr=0.02, smoothness=self.smoothness / 100, starts=self.starts),)
        return shared_out(SCHEDULE, steps=self.steps, smoothness=self.smoothness)

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
        return run_stages(self.stages, model, update, knowledge, generator=generator, watch=watch)

    __str__ = spec_of


def shared_out(
    parts: Sequence[tuple[float, float]], *, steps: int, smoothness: float, trust: float = 0.0
) -> tuple[MatchFeatures, ...]:
    """Stages that share the steps equally; those that get none are left out.

    Args:
        parts: Learning rate and floor of each stage.
        steps: Steps of all together.
        smoothness: Of each.
        trust: Of those behind `SCHEDULE`.
    """
    ends = [steps * k // len(parts) for k in range(len(parts) + 1)]
    return tuple(
        MatchFeatures(
            steps=end - start,
            lr=lr,
            floor=floor,
            smoothness=smoothness,
            trust=trust if number >= len(SCHEDULE) else 0.0,
        )
        for number, ((lr, floor), start, end) in enumerate(zip(parts, ends, ends[1:], strict=False))
        if end > start
    )


@runtime_checkable
class Plan(Protocol):
    """The schedule of an attack, for a batch that could be separated and for one that could not."""

    def __call__(self, *, separated: bool) -> tuple[Stage, ...]:
        """Its stages."""
        ...


def run_stages(
    plan: Plan,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    *,
    generator: Generator,
    watch: Watch | None,
) -> Reconstruction:
    """Separate the batch if it can be, and let each stage improve the pictures; see `Attack`."""
    device = checked(model, update)
    if update.is_zero:
        return blind_guess(knowledge, device)
    notes: list[str] = []
    labels = knowledge.labels
    if labels is None:
        labels, note = infer_labels(model, update, knowledge)
        notes.append(note)
    search = Search(
        model=model,
        update=update,
        knowledge=knowledge,
        labels=labels.to(device),
        pictures=blind_guess(knowledge, device).images,
        walk=Walk(steps=0, watch=watch),
        generator=generator,
    )
    search.walk.steps = 1 + sum(stage.steps for stage in plan(separated=True))  # the decoded pictures count as a step
    try:
        separate_first(search)
    except NoHeadError as reason:
        notes.append(f"{reason} The attack matched updates instead.")
    stages = plan(separated=search.separator is not None)
    search.walk.steps = len(search.walk.losses) + sum(stage.steps for stage in stages)
    for number, stage in enumerate(stages):
        if number:
            regain(search)
        stage(search)
    if search.separator is not None:
        notes += search.separator.notes
    return Reconstruction(
        images=search.pictures,
        labels=search.labels,
        losses=search.walk.losses,
        stop=search.stop,
        notes=tuple(notes),
        confidence=confidence(search.pictures, search.evidence),
        evidence=search.evidence,
    )


def separate_first(search: Search) -> None:
    """The search's separator and its first pictures.

    Raises:
        NoHeadError: The batch cannot be separated behind this network.
    """
    knowledge, channel = search.knowledge, search.knowledge.obfuscation
    head = read_head(
        search.model,
        knowledge.image_shape,
        training=knowledge.training,
        draws=knowledge.draws,
        sent=search.update.tensors,
    )
    gradients = [search.update.tensors[name] for name in head.weights]
    equations = gradients[0].shape[0]
    if knowledge.num_images > equations:
        raise NoHeadError(
            f"The batch has {knowledge.num_images} images and its Linear layer only {equations} outputs, so there are "
            "fewer equations than unknowns: the batch was not separated."
        )
    if not bool(gradients[0].any()):
        raise NoHeadError("Nothing of the Linear layer was sent: the batch was not separated.")
    decoder = fit_decoder(head, generator=search.generator)
    known = knowledge.scale and channel is not None and not (isinstance(channel, Shrinking) and channel.loses_scale)
    leaves = dead_leaves(2, knowledge.image_shape, generator=search.generator).to(gradients[0])
    search.grip = grip_of(head, leaves, generator=search.generator)
    gain, factor = first_gain(head, knowledge, gradients, search.labels, decoder.examples, known=known)
    _, errors = first_guess(head, gradients, search.labels, gain=gain, rounds=ROUNDS, generator=search.generator)
    beliefs: Mapping[str, Belief] = channel.beliefs(search.update) if isinstance(channel, Telling) else {}
    search.separator = Separator(
        head=head,
        gradient=gradients[0],
        belief=beliefs.get(head.weights[0]),
        labels=search.labels,
        training=knowledge.training,
        gain=factor,
        estimated=not known,
        gated=head.is_gated,
        exact=known and channel is not None and channel.family == "none",
    )
    separated = search.separator.reread(separate(errors, gradients[0], ridge=ROUGH), rounds=REREADS)
    features = head.allowed(separated.features)
    search.pictures = decoder(features, separated.noise)
    if not known:
        adjustment = brightness(search, lambda f: decoder(features / f, separated.noise / f**2), widths=(1.0, 0.4, 0.1))
        search.separator.gain *= adjustment
        search.pictures = decoder(features / adjustment, separated.noise / adjustment**2)
    search.walk.note(separated.residual, search.pictures)


def brightness(search: Search, pictures: Callable[[float], Images], *, widths: Sequence[float]) -> float:
    """By how much larger the gain is than was estimated: the pictures that it makes darker explain the update best.

    The Linear layers alone cannot tell a longer update from brighter pictures. The convolutions can: a bias's gradient
    does not grow with the picture, its weight's does.

    Args:
        search: Labels, update and knowledge are taken from it.
        pictures: What the pictures would be with a gain so many times larger.
        widths: Decades that are searched to each side, one round after the other.
    """
    knowledge = search.knowledge
    cosine = OBJECTIVES["cosine"](search.update, knowledge)

    @cache
    def loss(decades: float) -> float:
        batch = Batch(pictures(10**decades), search.labels)
        return float(cosine(knowledge.simulate(search.model, batch)).detach())

    best = 0.0
    for width in widths:
        tried = [best + width * k / 2 for k in (-2, -1, 0, 1, 2)]
        at = min(range(len(tried)), key=lambda i: loss(tried[i]))
        best = tried[at]
    if 0 < at < len(tried) - 1:  # between the last ones tried: where a parabola through the best three is lowest
        left, middle, right = (loss(tried[i]) for i in (at - 1, at, at + 1))
        best += widths[-1] / 4 * (left - right) / max(left - 2 * middle + right, 1e-12)
    return float(10**best)


def regain(search: Search) -> None:
    """Estimate the gain again by the present pictures."""
    if search.separator is None or not search.separator.estimated:
        return
    found = search.pictures
    factor = brightness(search, lambda factor: (found / factor).clamp(0, 1), widths=(0.1,))
    search.separator.gain *= factor
    search.pictures = (found / factor).clamp(0, 1)


def first_gain(
    head: Head, knowledge: Knowledge, gradients: list[Tensor], labels: Tensor, examples: Tensor, *, known: bool
) -> tuple[float, float]:
    """How much larger the update is than one gradient, and than what the assumed local training gives.

    Told from the last layer, whose gradient is nearly the same for all pictures: the client is simulated on dead leaves
    with the batch's labels, and compared with one gradient there and, where the learning rate or the channel's gain is
    not known, with what was received.
    """
    features = examples[torch.arange(len(labels), device=examples.device) % len(examples)]
    once = head.layers(features, labels)[-1]
    slope = once.errors.T @ once.inputs
    simulated = dense(head.simulate(knowledge.training, features, labels)[head.weights[-1]])
    sent = simulated if known else gradients[-1]

    def along(direction: Tensor) -> float:
        share = float((sent * direction).sum() / direction.square().sum())
        length = float(sent.norm() / direction.norm())
        # Where every class is in the batch, what all pictures have in common cancels out, and other pictures' gradient
        # points elsewhere: its length says more. Else the share, to which noise adds nothing.
        return max(share if share > UNLIKE * length else length, 1e-12)

    return along(slope), along(simulated)
