"""What an attacker knows, and the protocols of local trainings, obfuscations, attacks and enhancers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int, Shaped, UInt8
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.network import Draws
from unveil.core.reconstruction import Reconstruction
from unveil.core.types import Block, Family, Tensors
from unveil.core.update import Update
from unveil.core.watch import Watch

NAMED = 6
"""Most parameters that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the attacker is assumed to know besides the public model and the update.

    Args:
        training: The client's local training, which the attacker simulates.
        image_shape: (channels, height, width) of each picture.
        num_images: Number of pictures in the batch.
        classes: Number of classes.
        labels: The batch's labels in batch order, or None if the attacker must infer them.
        obfuscation: The obfuscation, or None if the attacker must treat the update as exact.
        fingerprinted: Whether the obfuscation was not granted, but is what the fingerprint of the update says.
        scale: The update is as long as `training` makes it; False if the attacker does not know learning rate and
            steps.
        draws: Seed of the random draws of the client's network, such as dropout masks; None if the attacker does not
            know them and takes their mean.
        stochastic: Whether the client's network draws random numbers; None if that was not tested.
        withheld: Names of the parameters that the client trains and does not send.
    """

    training: LocalTraining
    image_shape: tuple[int, int, int]
    num_images: int
    classes: int
    labels: Int[Tensor, " n"] | None = None
    obfuscation: Obfuscation | None = None
    fingerprinted: bool = False
    scale: bool = True
    draws: Draws = None
    stochastic: bool | None = None
    withheld: tuple[str, ...] = ()

    def simulate(self, model: Module, batch: Batch) -> Candidate:
        """Return the update that the client would send for a guess of its batch, as far as the attacker knows."""
        update = self.training.simulate(model, batch, draws=self.draws)
        return {name: value for name, value in update.items() if name not in self.withheld}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the attacker is assumed to know, a sentence each; printed with every result."""
        c, h, w = self.image_shape
        by_chance = self.training.mode == "train" if self.stochastic is None else self.stochastic
        masks = (
            "The attacker does not know what the client's network drew by chance, such as dropout masks, and takes the "
            "mean of every draw."
            if self.draws is None
            else "The attacker knows what the client's network drew by chance, such as dropout masks."
        )
        return (
            f"The attacker knows the client's local training ({self.training}) and the weights before it."
            if self.scale
            else f"The attacker knows the weights before local training, takes it for {self.training}, and does not "
            "know its learning rate and number of steps.",
            f"The attacker knows that the batch holds {self.num_images} images of {c} x {h} x {w}.",
            "The attacker knows the labels of the batch."
            if self.labels is not None
            else "The attacker does not know the labels of the batch.",
            _obfuscation_of(self),
            *((_withheld(self.withheld),) if self.withheld else ()),
            *((masks,) if by_chance else ()),
            *((BUFFERS[self.buffers],) if self.buffers != "kept" else ()),
        )

    @property
    def buffers(self) -> BufferSetting:
        """Whether the update holds the network's buffers."""
        return self.training.buffers if isinstance(self.training, SendsBuffers) else "kept"


def _obfuscation_of(knowledge: Knowledge) -> str:
    """Return what the attacker is assumed to know of the obfuscation."""
    if knowledge.obfuscation is None:
        return "The attacker does not know which obfuscation was used."
    if knowledge.fingerprinted:
        found = knowledge.obfuscation
        return f"The attacker was not granted the obfuscation; the fingerprint of the update is {found}."
    return f"The attacker knows the obfuscation ({knowledge.obfuscation})."


def _withheld(names: Sequence[str]) -> str:
    """Return what the attacker is assumed to know of parameters that were not sent."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"The attacker knows that the client keeps {', '.join(names[:NAMED])}{more} back, whatever the values are, and "
        "receives nothing of that."
    )


_HELD = "The update also holds how local training changed the network's buffers, such as BatchNorm's running statistics"
BUFFERS: Mapping[str, str] = {
    "sent": f"{_HELD}; nothing obfuscates them.",
    "obfuscated": f"{_HELD}, obfuscated as an update of their own.",
}
"""Setting of `buffers` -> what the attacker is assumed to receive."""

Misfit = Callable[[Candidate], Float[Tensor, ""]]
"""(candidate) -> how badly it explains the received update; the expected value is lowest for the true update."""


@runtime_checkable
class LocalTraining(Protocol):
    """What a client computes from its batch before it sends anything; it does not change the model."""

    @property
    def mode(self) -> Literal["eval", "train"]:
        """The mode in which the client runs the model."""
        ...

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Compute the tensors that the client sends.

        Args:
            model: The model before local training.
            batch: The client's batch.
            generator: Source of the client's noise and of the network's random draws; None if there is no noise.
        """
        ...

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Compute the tensors without noise, differentiable with respect to the batch; attackers call this.

        Args:
            model: The public model.
            batch: The attacker's guess of the batch.
            draws: Seed of the network's random draws, such as dropout masks; None to take the mean of every draw.
        """
        ...


@runtime_checkable
class Obfuscation(Protocol):
    """A change of the update on its way to the server, and what can be inferred from its output."""

    @property
    def family(self) -> Family:
        """The family that it belongs to, one of ROG's or a word of its own."""
        ...

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Obfuscate an update.

        Args:
            update: The update, which does not change.
            generator: Source of all randomness.

        Returns:
            A new update with the same names, shapes and types.
        """
        ...

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Prepare the observation model of a received update.

        Args:
            received: An output of this obfuscation.
            sent_only: Consider only the entries that were sent (`Update.sent`), because an earlier stage chose them.

        Returns:
            A function that judges candidates; it is called in every iteration of an attack.
        """
        ...


EntryModel = Callable[
    [Float[Tensor, "rows columns"], Block], tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]
]
"""``(expected, block) -> (target, weight)`` for one block of one matrix of the update.

Given the values that an attacker expects of the entries, it returns the values that the received update suggests, and
weights from 0 to 1. ``weight * (x - target)^2`` approximates the misfit near the expected values.
"""


@runtime_checkable
class HasEntryModels(Protocol):
    """An obfuscation after which some entries are more certain than others; without this, all are equally certain."""

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Return an entry model for each matrix of the received update, by name."""
        ...


@runtime_checkable
class MayRescale(Protocol):
    """An obfuscation that may multiply an update by a factor that its output does not reveal."""

    @property
    def scale_unknown(self) -> bool:
        """Whether it may do so with these settings."""
        ...


@runtime_checkable
class NeedsClient(Protocol):
    """An obfuscation that depends on the client's model and batch, and so can obfuscate nothing without them."""

    def for_client(self, model: Module, batch: Batch, training: LocalTraining) -> Obfuscation:
        """Return the obfuscation that a client applies to its update; only the client calls this.

        Args:
            model: The model before local training.
            batch: The client's private batch.
            training: The client's local training.

        Raises:
            UsageError: The obfuscation cannot be applied to this model.
        """
        ...

    def for_receiver(self, received: Update) -> Obfuscation:
        """Return an obfuscation that changes other updates as this one seems to have changed a received update.

        Attacks rehearse with it. It depends on nothing but the received update.

        Args:
            received: An output of this obfuscation, or of a pipeline with this stage.
        """
        ...


@runtime_checkable
class Attack(Protocol):
    """Rebuilds a batch from the public model, the update and the knowledge, without the private batch."""

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the attack.

        Args:
            model: The public model.
            update: The received update.
            knowledge: What the attacker knows.
            generator: Source of all randomness.
            watch: Called after each step; None for no reports.
        """
        ...


@runtime_checkable
class Enhancer(Protocol):
    """Improves an attack's pictures with what it knows of pictures in general, without the update."""

    @property
    def is_faithful(self) -> bool:
        """Whether it claims to restore pictures; its pictures are then not allowed to raise the misfit."""
        ...

    @property
    def uses_labels(self) -> bool:
        """Whether it uses the labels; reports then also show what it draws from the labels alone."""
        ...

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What an attacker who has it is assumed to know, a sentence each; printed with every result."""
        ...

    def __call__(self, guess: Reconstruction, *, class_names: Sequence[str] = ()) -> Reconstruction:
        """Return the same reconstruction with other pictures.

        Args:
            guess: An attack's reconstruction.
            class_names: Name of each class, by the class index; empty if the names are not known.
        """
        ...


@runtime_checkable
class TrainedOnPictures(Protocol):
    """An enhancer that was trained on pictures; an audit of one of these pictures is refused."""

    @property
    def seen(self) -> UInt8[Tensor, "pictures bytes"]:
        """Fingerprints of its training pictures, computed by `core.fingerprints.fingerprints`."""
        ...


@runtime_checkable
class HasOrder(Protocol):
    """A local training whose mini-batches have an order, which a threat model may withhold."""

    def reordered(self, pictures: int) -> LocalTraining | None:
        """Return a copy with other mini-batches than the client's; None if each step has all of `pictures` pictures."""
        ...


@runtime_checkable
class MayBeShortened(Protocol):
    """A local training of many steps, of which a rehearsal needs only the first."""

    def shortened(self, pictures: int) -> LocalTraining:
        """Return a copy that trains for one epoch of `pictures` pictures at most."""
        ...


@runtime_checkable
class MayAddNoise(Protocol):
    """A local training that may add noise of its own, as DP-SGD does: its baseline is the same without noise."""

    def without_noise(self) -> LocalTraining | None:
        """Return a copy that neither clips nor adds noise; None if this one adds no noise."""
        ...


@runtime_checkable
class SmoothsLabels(Protocol):
    """A local training whose loss spreads a share of each label evenly over all classes."""

    @property
    def label_smoothing(self) -> float:
        """The share, in [0, 1)."""
        ...


def smoothing_of(training: LocalTraining) -> float:
    """Return the share of each label that the loss of a local training spreads over all classes; 0 for none."""
    return training.label_smoothing if isinstance(training, SmoothsLabels) else 0.0


BufferSetting = Literal["kept", "sent", "obfuscated"]
"""Whether a client keeps the network's buffers, sends them as they are, or lets them be obfuscated like the update."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a client has after local training.

    Args:
        tensors: What it sends of the parameters; see `LocalTraining`.
        buffers: Value after minus value before of each buffer of the network's `state_dict` that changed.
    """

    tensors: Tensors
    buffers: Mapping[str, Shaped[Tensor, " ..."]]


@runtime_checkable
class SendsBuffers(Protocol):
    """A local training that may also send what it did to the network's buffers, such as BatchNorm's statistics."""

    @property
    def buffers(self) -> BufferSetting:
        """Whether it sends them."""
        ...

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Compute what a call does, and the changes of the buffers."""
        ...


@runtime_checkable
class TakesRoughSteps(Protocol):
    """An attack with steps that need only three digits and may be taken in bfloat16; see `arithmetic.py`."""

    @property
    def is_rough(self) -> bool:
        """Whether it takes such steps with these settings."""
        ...


@runtime_checkable
class UsesLearnedPrior(Protocol):
    """An attack that contains a learned prior, and so knows the pictures on which the prior was trained."""

    @property
    def prior(self) -> Enhancer:
        """The learned prior."""
        ...
