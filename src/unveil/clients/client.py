"""A client: one client's model, batch and local training, before any channel or attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch.nn import Module

from unveil.clients.models import ModelName, build_model
from unveil.clients.models.checkpoints import load_into, read_checkpoint
from unveil.clients.models.normalisation import Normalisation, normalised
from unveil.clients.models.rehearsal import FEW, rehearse
from unveil.clients.pictures import Pictures, count_pictures, load_pictures
from unveil.clients.pictures.table import MOST_CLASSES
from unveil.clients.training import shortened
from unveil.core.errors import UsageError
from unveil.core.network import draws_by_chance
from unveil.core.protocols import Knowledge, LocalTraining, Obfuscation
from unveil.core.types import Batch, Images

MOST_VALUES = 1 << 28  # numbers in all pictures of a client: 1 GiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Client:
    """What a client holds and does.

    Args:
        name: Its name in results.
        model_name: What the model was built from.
        model: The public model, before local training.
        batch: The private batch.
        classes: Number of classes.
        training: The client's local training.
        source: Where the pictures came from.
        class_names: A name for each class; empty where they have none.
        decoys: Other pictures of the same source, among which an original is looked for; None if none were asked for.
        others: What another client of the same source holds, for a control; None if the source has too few pictures.
        weights: Name and checksum of the file that its trained weights came from; empty for none.
        normalisation: What stands before the model; empty for nothing.
        notes: What a reader must know of the model and the pictures, a sentence each.
    """

    name: str
    model_name: str
    model: Module
    batch: Batch
    classes: int
    training: LocalTraining
    source: str
    class_names: tuple[str, ...] = ()
    decoys: Images | None = None
    others: Batch | None = None
    weights: str = ""
    normalisation: str = ""
    notes: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, str]:
        """What was put to the model beside its name, as settings: nothing for most."""
        found = {"weights": self.weights, "normalise": self.normalisation}
        return {key: value for key, value in found.items() if value}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What of the model an attacker knows beside its name, a sentence each."""
        sentences = {
            f"The model's weights are those of {self.weights}, and the attacker has them.": self.weights,
            f"Pictures in [0, 1] are normalised before the model, {self.normalisation}.": self.normalisation,
        }
        return tuple(sentence for sentence, given in sentences.items() if given)

    def knowledge(self, obfuscation: Obfuscation | None) -> Knowledge:
        """All that an attacker on this client can be granted.

        Args:
            obfuscation: The channel, or None for an attacker who does not know it.
        """
        _, channels, height, width = self.batch.images.shape
        return Knowledge(
            training=self.training,
            image_shape=(channels, height, width),
            num_images=len(self.batch),
            classes=self.classes,
            labels=self.batch.labels.clone(),
            obfuscation=obfuscation,
            stochastic=self.stochastic,
        )

    @cached_property
    def stochastic(self) -> bool:
        """Whether the client's network draws anything by chance, such as dropout masks."""
        return draws_by_chance(self.model, self.batch.images, mode=self.training.mode)


def make_client(
    *,
    name: str,
    model: str | ModelName,
    images: str,
    size: int | tuple[int, int],
    batch: int,
    channels: int = 3,
    classes: int | None = None,
    training: LocalTraining,
    weights: str | None = None,
    normalisation: Normalisation | None = None,
    labels_csv: str | None = None,
    gallery: str | None = None,
    seed: int = 0,
    decoys: int = 0,
    others: bool = False,
) -> Client:
    """Load the pictures, build the model, check that they fit together, and rehearse the client's training.

    Args:
        name: Its name in results.
        model: A name of the model zoo, or `package.module:factory?key=value`; see `build_model`.
        images: `builtin`, or a folder; see `load_pictures`.
        size: Height and width of the pictures, pixels; two numbers where they differ.
        batch: Pictures in the batch.
        channels: 3 for RGB, 1 for grey.
        classes: Number of classes, at least 2; None for as many as the pictures' source has.
        training: The client's local training.
        weights: A file of trained weights; None for those that the model is built with.
        normalisation: What stands before the model; None where it takes pictures in [0, 1].
        labels_csv: Labels instead of sub-folders; see `load_pictures`.
        gallery: Another source, for decoys and the other client; None for the rest of `images`.
        seed: Seed of the model's weights and of the choice of pictures.
        decoys: How many more pictures of the source to load for galleries.
        others: Load another client's batch too, if the source has enough pictures.

    Raises:
        UsageError: Pictures, labels and model that cannot be used, or not together.
    """
    height, width = (size, size) if isinstance(size, int) else size
    named = ModelName.parse(model) if isinstance(model, str) else model
    _refuse_giants(name, batch + decoys + others * batch, channels * height * width)
    shape = _Shape(height, width, channels, seed)
    pictures = shape.load(images, count=batch, labels_csv=labels_csv)
    rest = _Rest(images, labels_csv, batch) if gallery is None else _Rest(gallery, None, 0)
    decoyed = rest.load(decoys, shape) if decoys else None
    neighbour = None
    if others and rest.count() >= decoys + batch:
        neighbour = rest.load(batch, shape, skip=decoys)
    classes = _classes(name, pictures, classes)
    network = build_model(named, image_shape=(channels, height, width), classes=classes, seed=seed)
    checkpoint = None if weights is None else read_checkpoint(weights)
    if checkpoint is not None:
        load_into(network, checkpoint)
    if normalisation is not None:
        network = normalised(network, normalisation)
    held = Batch(pictures.images, pictures.labels)
    notes = rehearse(
        named,
        network,
        held,
        classes,
        client=shortened(training, batch),
        attacker=shortened(training, min(batch, FEW)),
    )
    return Client(
        name=name,
        model_name=str(named),
        model=network,
        batch=held,
        classes=classes,
        training=training,
        source=str(images),
        class_names=pictures.class_names,
        decoys=None if decoyed is None else decoyed.images,
        # Classes of another source are not this model's: its pictures stand under this batch's labels.
        others=None
        if neighbour is None
        else Batch(neighbour.images, neighbour.labels if gallery is None else pictures.labels.clone()),
        weights="" if checkpoint is None else str(checkpoint),
        normalisation="" if normalisation is None else str(normalisation),
        notes=(*pictures.notes, *notes),
    )


def _classes(name: str, pictures: Pictures, classes: int | None) -> int:
    """Number of classes, if the labels fit it."""
    classes = len(pictures.class_names) if classes is None else classes
    if classes > MOST_CLASSES:
        raise UsageError(
            f"client {name!r}: expected at most {MOST_CLASSES:,} classes, got {classes}; set classes to how many "
            "the model tells apart"
        )
    if classes < 2:
        raise UsageError(
            f"client {name!r}: expected at least 2 classes, got {classes}, with which every gradient is zero; "
            "set classes or add a class"
        )
    highest = int(pictures.labels.max())
    if highest >= classes:
        raise UsageError(
            f"client {name!r}: label {highest} ({pictures.class_names[highest]!r}) is out of range for "
            f"{classes} classes; set classes to at least {highest + 1} or leave it out"
        )
    return classes


def _refuse_giants(name: str, pictures: int, values: int) -> None:
    """Before any picture is read: a wrong digit must not fill the memory."""
    if pictures * values > MOST_VALUES:
        raise UsageError(
            f"client {name!r}: {pictures} pictures of {values:,} values are more than the {MOST_VALUES:,} that are "
            "held at once; lower size, batch or decoys"
        )


@dataclass(frozen=True)
class _Shape:
    """How pictures are loaded."""

    height: int
    width: int
    channels: int
    seed: int

    def load(self, source: str, *, count: int, labels_csv: str | None, skip: int = 0) -> Pictures:
        return load_pictures(
            source,
            count=count,
            size=(self.height, self.width),
            channels=self.channels,
            labels_csv=labels_csv,
            seed=self.seed,
            skip=skip,
        )


@dataclass(frozen=True)
class _Rest:
    """The pictures of a source that are not in the batch: `taken` of them are."""

    source: str
    labels_csv: str | None
    taken: int

    def count(self) -> int:
        return count_pictures(self.source, labels_csv=self.labels_csv) - self.taken

    def load(self, count: int, shape: _Shape, *, skip: int = 0) -> Pictures:
        return shape.load(self.source, count=count, labels_csv=self.labels_csv, skip=skip + self.taken)
