"""A client: the model it was sent, its private pictures and its local training, before any obfuscation or attack."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Module

from unveil.clients.training import FedSGD
from unveil.core.arithmetic import full_precision
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.network import Mode, draws_by_chance, in_mode, run
from unveil.core.protocols import Knowledge, LocalTraining, Obfuscation
from unveil.core.randomness import generators
from unveil.core.types import Images
from unveil.core.update import Update

FEW = 2  # pictures on which a model is tried; BatchNorm in train mode needs more than one
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """Other pictures of a client's source. Scores and controls need them; the client does not train on them.

    Args:
        decoys: Pictures among which an original is looked for, m x c x h x w as the client's; None for none.
        others: What another client of the same source holds, for the control `another client`; None for none.
    """

    decoys: Images | None = None
    others: Batch | None = None

    def to(self, device: torch.device) -> EvaluationSet:
        """The same on a device."""
        return EvaluationSet(
            decoys=None if self.decoys is None else self.decoys.to(device),
            others=None if self.others is None else Batch(self.others.images.to(device), self.others.labels.to(device)),
        )


@dataclass(frozen=True, eq=False)
class Client:
    """What a client holds and does.

    `Client(model, images, labels)` is enough; `client.update(obfuscation, seed=0)` is then what the server receives.

    Args:
        model: The public model, before local training; takes n x c x h x w pictures, returns n x classes logits. It is
            never changed.
        images: The private pictures, n x c x h x w, floating point in [0, 1], at least one. What normalises them
            belongs to the model.
        labels: A class index for each picture, n integers in [0, classes).
        training: The client's local training.
        classes: Number of classes, 2 to as many as the model has outputs; 0 for as many as it has outputs, for which it
            is run once on two pictures.
        class_names: A name for each class; empty where they have none.
        evaluation: Other pictures, for scores and controls.
        name: Its name in results; no two clients of an audit share one.
        model_name: What results call the model; empty for the name of its class.
        source: Where the pictures came from, for results.
        weights: Name and checksum of the file that trained weights came from, for results; empty for none.
        normalisation: What stands before the model, for results; empty for nothing.
        notes: What a reader of results must know of the model and the pictures, a sentence each.

    Raises:
        UsageError: Pictures or labels of another shape or type, values that are no pictures, labels out of range, or a
            model whose output does not fit them.
    """

    model: Module
    images: Images
    labels: Int[Tensor, " n"]
    _: KW_ONLY
    training: LocalTraining = field(default_factory=FedSGD)
    classes: int = 0
    class_names: tuple[str, ...] = ()
    evaluation: EvaluationSet = field(default_factory=EvaluationSet)
    name: str = "client"
    model_name: str = ""
    source: str = "given"
    weights: str = ""
    normalisation: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        who = f"client {self.name!r}"
        _check_model(who, self.model)
        _check_images(who, self.images)
        _check_labels(who, self.labels, len(self.images))
        classes = self.classes or _outputs(who, self.model, self.images[:FEW], mode=self.training.mode)
        if classes < 2:
            raise UsageError(
                f"{who}: expected at least 2 classes, got {classes}, with which every gradient is zero; "
                "give the model one output a class, and leave classes out"
            )
        if int(self.labels.max()) >= classes or int(self.labels.min()) < 0:
            wrong = int(self.labels.max()) if int(self.labels.max()) >= classes else int(self.labels.min())
            raise UsageError(
                f"{who}: label {wrong} is out of range for {classes} classes, which are 0 to {classes - 1}; "
                "correct the label, or give the model one output a class"
            )
        object.__setattr__(self, "labels", self.labels.long())
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "model_name", self.model_name or type(self.model).__name__)

    @cached_property
    def batch(self) -> Batch:
        """The private pictures with their labels."""
        return Batch(self.images, self.labels)

    @property
    def given(self) -> dict[str, str]:
        """What was put to the model beside its name, as settings: nothing for most."""
        facts = {"weights": self.weights, "normalise": self.normalisation}
        return {key: value for key, value in facts.items() if value}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What of the model an attacker knows beside its name, a sentence each."""
        sentences = {
            f"The model's weights are those of {self.weights}, and the attacker has them.": self.weights,
            f"Pictures in [0, 1] are normalised before the model, {self.normalisation}.": self.normalisation,
        }
        return tuple(sentence for sentence, given in sentences.items() if given)

    @cached_property
    def stochastic(self) -> bool:
        """Whether the client's network draws anything by chance, such as dropout masks."""
        return draws_by_chance(self.model, self.images, mode=self.training.mode)

    def update(self, obfuscation: Obfuscation | None = None, *, seed: int = 0) -> Update:
        """What the server receives after one round.

        Args:
            obfuscation: What happens to the update on its way; None for nothing.
            seed: Seed of the client's noise and of the obfuscation, at least 0; the same as in `play` and audits.

        Raises:
            UsageError: The update is all zeros or not finite, or the model or the obfuscation cannot work with it.
        """
        for_client, for_obfuscation, _ = generators(seed, self.images.device)
        with full_precision(self.images.device):
            sent = Update(self.training(self.model, self.batch, generator=for_client))
            if sent.is_zero:
                raise UsageError(
                    "the update is all zeros, so there is nothing in it to attack; "
                    "check that the client's model is not frozen and that its pictures reach the loss"
                )
            received = sent if obfuscation is None else obfuscation(sent, generator=for_obfuscation)
        received.check()
        return received

    def knowledge(self, obfuscation: Obfuscation | None = None) -> Knowledge:
        """All that an attacker on this client can be granted; `ThreatModel.knowledge` grants less.

        Args:
            obfuscation: The obfuscation that the attacker knows of, or None for an attacker who takes the update for
                exact.
        """
        _, channels, height, width = self.images.shape
        return Knowledge(
            training=self.training,
            image_shape=(channels, height, width),
            num_images=len(self.images),
            classes=self.classes,
            labels=self.labels.clone(),
            obfuscation=obfuscation,
            stochastic=self.stochastic,
        )

    def holding(self, batch: Batch) -> Client:
        """The same client with another batch."""
        return replace(self, images=batch.images, labels=batch.labels)

    def to(self, device: torch.device) -> Client:
        """The same client on a device; the model's own weights move there too."""
        return replace(
            self,
            model=self.model.to(device),
            images=self.images.to(device),
            labels=self.labels.to(device),
            evaluation=self.evaluation.to(device),
        )


def _check_images(who: str, images: object) -> None:
    """Raise a `UsageError` unless the images are n x c x h x w values in [0, 1]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(
            f"{who}: expected images as a tensor of n x channels x height x width, got {shape}; "
            "stack them with torch.stack, and a single one with images[None]"
        )
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise UsageError(f"{who}: expected images as floating point in [0, 1], got {kind}; use images.float() / 255")
    if not bool(torch.isfinite(images).all()):
        raise UsageError(f"{who}: the images hold NaN or infinite values; leave those pictures out")
    low, high = float(images.detach().min()), float(images.detach().max())
    if low < 0 or high > 1:
        raise UsageError(
            f"{who}: expected images with values in [0, 1], got {low:g} to {high:g}; "
            "divide 8-bit pictures by 255, and put normalisation into the model"
        )


def _check_labels(who: str, labels: object, pictures: int) -> None:
    """Raise a `UsageError` unless the labels are one integer a picture."""
    if isinstance(labels, Tensor) and labels.shape == (pictures,) and labels.dtype in WHOLE:
        return
    shape = f"{labels.dtype} of {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    raise UsageError(
        f"{who}: expected labels as {pictures} integers, one a picture, got {shape}; "
        "use torch.tensor([...]) with class indices"
    )


def _check_model(who: str, model: object) -> None:
    """Raise a `UsageError` unless it is a network."""
    if not isinstance(model, Module):
        raise UsageError(f"{who}: expected the model as a torch.nn.Module, got {type(model).__name__}; build it first")


def _outputs(who: str, model: Module, images: Images, *, mode: Mode) -> int:
    """How many outputs the model has, in the mode in which the client runs it."""
    with torch.no_grad():
        logits = run(in_mode(model, mode), images, {}, draws=0)
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images):
        return logits.shape[1]
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise UsageError(
        f"{who}: expected a model that returns {len(images)} x classes logits for {len(images)} pictures, "
        f"got {shape}; wrap it so that it returns the logits alone"
    )
