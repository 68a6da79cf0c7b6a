"""unveil's own attack: separate the batch, decode each image from its features, search what the update leaves open.

docs/method.md has the equations and says whose idea is what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

from torch import Generator
from torch.nn import Module

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.labels.inference import infer_labels
from unveil.attacks.matching.loop import Walk, blind_guess
from unveil.attacks.separation.confidence import confidence
from unveil.attacks.separation.decoder import fit_decoder
from unveil.attacks.separation.factorisation import first_guess, separate
from unveil.attacks.separation.gain.estimation import estimate, regain
from unveil.attacks.separation.gain.levels import level
from unveil.attacks.separation.gain.likelihood import first_gain, is_known
from unveil.attacks.separation.heads.head import NoHeadError, read_head
from unveil.attacks.separation.refinement import ROUGH, FeatureRefiner
from unveil.attacks.separation.stages import MatchFeatures, MatchUpdates, Search, Stage, feature_sensitivity_of
from unveil.core.bounds import not_negative, whole
from unveil.core.objectives import checked
from unveil.core.protocols import EntryModel, HasEntryModels, Knowledge
from unveil.core.registry import spec_of
from unveil.core.types import Images, Reconstruction, Update, Watch

ROUNDS = 4  # of errors from features and features from errors, before there are pictures
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
    is_rough: ClassVar[bool] = True
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
    gradients = [search.update.tensors[name].to(head.kind) for name in head.weights]
    equations = gradients[0].shape[0]
    if knowledge.num_images > equations:
        raise NoHeadError(
            f"The batch has {knowledge.num_images} images and its Linear layer only {equations} outputs, so there are "
            "fewer equations than unknowns: the batch was not separated."
        )
    if not bool(gradients[0].any()):
        raise NoHeadError("Nothing of the Linear layer was sent: the batch was not separated.")
    decoder = fit_decoder(head, generator=search.generator)
    levelled = None
    if not is_known(knowledge):
        levelled = level(
            search.model, search.update, knowledge, search.labels, reference=head.weights[0], generator=search.generator
        )
        gradients = [levelled.tensors[name].to(head.kind) for name in head.weights]
    leaves = dead_leaves(2, knowledge.image_shape, generator=search.generator).to(gradients[0].device)
    search.feature_sensitivity = feature_sensitivity_of(head, leaves, generator=search.generator)
    gain, factor = first_gain(head, knowledge, gradients, search.labels, decoder.examples, known=levelled is None)
    _, errors = first_guess(head, gradients, search.labels, gain=gain, rounds=ROUNDS, generator=search.generator)
    received = replace(search.update, tensors={name: t.to(head.kind) for name, t in search.update.tensors.items()})
    entry_models: Mapping[str, EntryModel] = (
        channel.entry_models(received) if isinstance(channel, HasEntryModels) else {}
    )
    search.separator = FeatureRefiner(
        head=head,
        gradient=gradients[0],
        entry_model=entry_models.get(head.weights[0]),
        labels=search.labels,
        training=knowledge.training,
        gain=factor,
        once=gain / factor,
        estimated=levelled is not None,
        gated=head.is_gated,
        exact=levelled is None and channel is not None and channel.family == "none",
    )
    separated = search.separator.reread(separate(errors, gradients[0], ridge=ROUGH), rounds=REREADS)
    features = head.allowed(separated.features)
    search.pictures = decoder(features, separated.noise)
    if levelled is not None:

        def pictures(gain: float) -> Images:
            return decoder(features * (factor / gain), separated.noise * (factor / gain) ** 2)

        estimate(search, levelled, features, pictures)
    search.walk.note(separated.residual, search.pictures)
