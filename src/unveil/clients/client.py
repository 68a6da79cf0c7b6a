"""A client: a model, the client's private pictures with their labels, and its local training."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from unveil.clients.batch_fit import BatchFit
from unveil.clients.messages import BY_EACH, CohortObfuscates, mean_of_each
from unveil.clients.rounds import moved
from unveil.clients.sending import obfuscated, refuse_zeros, trained_update
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import chosen_precision
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.errors import UsageError
from unveil.core.means import mean_of_rounds
from unveil.core.network import Mode, draws_by_chance, in_mode, run
from unveil.core.protocols import Knowledge, LocalTraining, MayAddNoise, Obfuscation
from unveil.core.randomness import generators
from unveil.core.rounds import Memory
from unveil.core.types import Images
from unveil.core.update import Update

FEW = 2  # pictures on which a model is run to count its outputs; BatchNorm in train mode needs more than one
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # types that labels may have


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """Other pictures of a client's source, for scores and controls; the client does not train on them.

    Args:
        decoys: Pictures among which re-identification looks for an original, m x c x h x w with the c, h and w of the
            client's pictures; None for none.
        decoy_labels: Class index of each decoy, where decoys and the client's pictures of one class were drawn from the
            same source by chance; None where they were not, or where that is not known.
        others: The batch of another client of the same source, for the control `another client`; None for none.
    """

    decoys: Images | None = None
    decoy_labels: Int[Tensor, " m"] | None = None
    others: Batch | None = None

    def to(self, device: torch.device) -> EvaluationSet:
        """Return the same pictures on a device."""
        return EvaluationSet(
            decoys=None if self.decoys is None else self.decoys.to(device),
            decoy_labels=None if self.decoy_labels is None else self.decoy_labels.to(device),
            others=None if self.others is None else Batch(self.others.images.to(device), self.others.labels.to(device)),
        )


@dataclass(frozen=True, eq=False)
class Client:
    """A client: a model, private pictures with labels, and a local training.

    `Client(model, images, labels)` is enough; `client.update(obfuscation, seed=0)` then gives the received update.

    Args:
        model: The public model before local training, from n x c x h x w pictures to n x classes logits. It is not
            changed.
        images: The private pictures, n x c x h x w, floating point in [0, 1], at least one. Normalisation is part of
            the model.
        labels: A class index for each picture, n integers in [0, classes).
        training: The client's local training.
        classes: Number of classes, from 2 to the number of the model's outputs. 0 for the number of outputs, which is
            found by running the model on two pictures.
        class_names: Name of each class; empty if they have none.
        evaluation: Other pictures, for scores and controls.
        name: The client's name in results; each client of an audit has another.
        model_name: The model's name in results; empty for the name of its class.
        source: Where the pictures came from, for results.
        weights: Name and checksum of the file of trained weights, for results; empty for none.
        normalisation: The normalisation in front of the model, for results; empty for none.
        notes: What a reader of results must know of the model and the pictures, a sentence each.
        fit: How well the model fits the batch before the attack; None if that was not looked at.
        cohort: Number of clients of whose updates the server sees only the mean, at least 1. The pictures are those of
            all of them, one client's after the other's, and `training` is that of all (`clients.cohort.of_cohort`).
        cohort_obfuscates: Whether a cohort's obfuscation is put once on the mean, or by each client on its own update.
        rounds: Number of rounds, at least 1, in which it sends an update of the same pictures; the server sees all.
        error_feedback: Whether it adds to each update what was withheld of the ones before.
        server_lr: What the server multiplies what it received by, before it subtracts it from the model's weights
            between two rounds: 1 for FedAvg, the learning rate for FedSGD.
        rounds_of: Name that it shares with clients of other numbers of rounds, for results; empty where there are none.
        cohort_of: Name that it shares with cohorts of other sizes, for results; empty where there are none.

    Raises:
        UsageError: Pictures or labels have another shape or type, pixels are not in [0, 1], labels are out of range, or
            the model's output does not fit them.
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
    fit: BatchFit | None = None
    cohort: int = 1
    cohort_obfuscates: CohortObfuscates = "mean"
    rounds: int = 1
    error_feedback: bool = False
    server_lr: float = 1.0
    cohort_of: str = ""
    rounds_of: str = ""

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
        """The private pictures and their labels."""
        return Batch(self.images, self.labels)

    @property
    def given(self) -> dict[str, str]:
        """File of weights and normalisation as settings of a trial, without those that were not given."""
        facts = {"weights": self.weights, "normalise": self.normalisation}
        return {key: value for key, value in facts.items() if value}

    @property
    def over_rounds(self) -> dict[str, str]:
        """What there is to say of several rounds, as settings of a trial; nothing for one round."""
        if self.rounds == 1:
            return {}
        feedback = {"error_feedback": "yes"} if self.error_feedback else {}
        return {"rounds": str(self.rounds), **feedback, "server_lr": f"{self.server_lr:g}"}

    @property
    def each_obfuscates(self) -> bool:
        """Whether it is a cohort of which each client obfuscates its own update."""
        return self.cohort > 1 and self.cohort_obfuscates == "each"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What an attacker is assumed to know of the model beside its name, a sentence each."""
        n, k = len(self.images), self.cohort
        sentences: dict[str, object] = {
            f"The server sees only the mean of the updates of {k} clients, weighted by their numbers of pictures. The "
            f"attacker knows that there are {k}, and whose each label is where labels are known. All {n} pictures are "
            f"scored. {BY_EACH if self.each_obfuscates else 'The obfuscation is put on the mean.'}": k > 1,
            f"The client sent updates of the same pictures in {self.rounds} rounds. The attacker has all of them, with "
            "the model's weights before each, and matches their mean: what the first rounds together sent is compared "
            "with as many times that mean. Between two rounds the server subtracts what this client sent, times "
            f"{self.server_lr:g}.": self.rounds > 1,
            "The client adds what was withheld to its next update (error feedback). The attacker does not know what it "
            "kept, but what it sent before.": self.rounds > 1 and self.error_feedback,
            f"The model's weights are those of {self.weights}, and the attacker has them.": self.weights,
            f"Pictures in [0, 1] are normalised before the model, {self.normalisation}.": self.normalisation,
        }
        return tuple(sentence for sentence, given in sentences.items() if given)

    @cached_property
    def stochastic(self) -> bool:
        """Whether the client's network draws random numbers, such as dropout masks."""
        return draws_by_chance(self.model, self.images, mode=self.training.mode)

    def update(self, obfuscation: Obfuscation | None = None, *, seed: int = 0) -> Update:
        """Return the update that the server receives after one round.

        Args:
            obfuscation: The obfuscation of the update; None for none.
            seed: Seed of the client's noise and of the obfuscation, at least 0; `play` and audits use it the same way.

        Raises:
            UnattackableError: The update is all zeros or not finite.
            UsageError: The model or the obfuscation raised an error.
        """
        for_training, for_obfuscation, _ = generators(seed)
        model, sent, memory = self.model, list[Update](), Memory(feedback=self.error_feedback)
        if obfuscation is not None and self.each_obfuscates:
            with chosen_precision(self.images.device):
                mean = mean_of_each(
                    self.training,
                    model,
                    self.batch,
                    self.cohort,
                    obfuscation,
                    for_training=for_training,
                    for_obfuscation=for_obfuscation,
                )
            mean.check()
            return mean
        with chosen_precision(self.images.device):
            for _ in range(self.rounds):
                trained = trained_update(self.training, model, self.batch, generator=for_training)
                refuse_zeros([trained])
                received = came = memory.added(trained)
                if obfuscation is not None:
                    own = for_client(obfuscation, model, self.batch, self.training)
                    received = obfuscated(came, own, generator=for_obfuscation, training=self.training)
                received.check()
                memory = memory.after(came, received)
                sent.append(received)
                if len(sent) < self.rounds:
                    model = moved(model, {name: self.server_lr * t for name, t in received.tensors.items()})
        return sent[0] if self.rounds == 1 else mean_of_rounds(sent)

    def knowledge(self, obfuscation: Obfuscation | None = None) -> Knowledge:
        """Return all that an attacker can be assumed to know; `ThreatModel.knowledge` returns a part of it.

        Args:
            obfuscation: The obfuscation that the attacker knows; None for an attacker who treats the update as exact.
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
        """Return the same client with another batch."""
        return replace(self, images=batch.images, labels=batch.labels)

    def without_noise(self) -> Client | None:
        """Return the same client whose local training adds no noise; None if this one's adds none."""
        bare = self.training.without_noise() if isinstance(self.training, MayAddNoise) else None
        return None if bare is None else replace(self, training=bare)

    def to(self, device: torch.device) -> Client:
        """Return the same client on a device; the model itself is moved there, not copied."""
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
    """Raise a `UsageError` unless the labels are one integer for each picture."""
    if isinstance(labels, Tensor) and labels.shape == (pictures,) and labels.dtype in WHOLE:
        return
    shape = f"{labels.dtype} of {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
    raise UsageError(
        f"{who}: expected labels as {pictures} integers, one a picture, got {shape}; "
        "use torch.tensor([...]) with class indices"
    )


def _check_model(who: str, model: object) -> None:
    """Raise a `UsageError` unless the model is a `torch.nn.Module`."""
    if not isinstance(model, Module):
        raise UsageError(f"{who}: expected the model as a torch.nn.Module, got {type(model).__name__}; build it first")
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise UsageError(
            f"{who}: the model has lazy layers without weights; run it once on a picture where it is built"
        )


def _outputs(who: str, model: Module, images: Images, *, mode: Mode) -> int:
    """Return the number of the model's outputs, in the mode in which the client runs it."""
    with torch.no_grad():
        logits = run(in_mode(model, mode), images, {}, draws=0)
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images):
        return logits.shape[1]
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise UsageError(
        f"{who}: expected a model that returns {len(images)} x classes logits for {len(images)} pictures, "
        f"got {shape}; wrap it so that it returns the logits alone"
    )
