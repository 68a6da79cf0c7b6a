"""Making a client from the names and options that the command line and audit files give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unveil.clients.batch_fit import batch_fit, doubts
from unveil.clients.class_names import renumbered
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.cohort import of_cohort
from unveil.clients.models import ModelName, build_model
from unveil.clients.models.checkpoints import load_into, read_checkpoint
from unveil.clients.models.normalisation import Normalisation, normalised
from unveil.clients.models.rehearsal import FEW, rehearse
from unveil.clients.pictures import Pictures, count_pictures, load_pictures
from unveil.clients.pictures.table import MOST_CLASSES
from unveil.clients.training import shortened
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.protocols import LocalTraining
from unveil.core.types import Images

MOST_VALUES = 1 << 28
"""Most values in all pictures of a client together, 1 GiB of float32."""

LOOKED = 8
"""Times as many pictures as another client holds are looked through for some that are no copies of the batch's."""


def make_client(
    *,
    name: str,
    model: str | ModelName,
    images: str,
    size: int | tuple[int, int],
    batch: int,
    channels: int = 3,
    classes: int | None = None,
    class_names: Sequence[str] = (),
    training: LocalTraining,
    weights: str | None = None,
    normalisation: Normalisation | None = None,
    labels_csv: str | None = None,
    gallery: str | None = None,
    seed: int = 0,
    decoys: int = 0,
    others: bool = False,
    place: int = 0,
    batches: int = 1,
    cohort: int = 1,
) -> Client:
    """Load the pictures, build the model, check that they fit together, and rehearse the client's training.

    Args:
        name: The client's name in results.
        model: A name of the model zoo, or `package.module:factory?key=value`; see `build_model`.
        images: `builtin`, or a folder; see `load_pictures`.
        size: Height and width of the pictures in pixels; a pair if they differ.
        batch: Number of pictures in the batch.
        channels: 3 for RGB, 1 for grey.
        classes: Number of classes, at least 2; None for the number of classes in the pictures' source.
        class_names: Name of each class of the model, in the order of its outputs; a picture's label is the place of its
            folder's name among them. Empty to number the classes of the source in alphabetical order.
        training: The client's local training.
        weights: File of trained weights; None to keep the weights with which the model is built.
        normalisation: Normalisation in front of the model; None if the model takes pictures in [0, 1].
        labels_csv: File of labels, instead of sub-folders; see `load_pictures`.
        gallery: Another source, for decoys and the other client; None for the rest of `images`.
        seed: Seed of the model's weights and of the choice of pictures.
        decoys: Number of further pictures of the source to load as decoys.
        others: Load another client's batch too, if the source has enough pictures.
        place: Which batch of the source this client has, from 0; those of other places hold other pictures.
        batches: Number of batches that clients of this source have; decoys and the other client are none of them.
        cohort: Number of clients of whose updates the server sees only the mean, each with a batch of other pictures;
            the client that is made has the pictures of all.

    Raises:
        UsageError: Pictures, labels, the model or the cohort's training cannot be used, or do not fit together.
    """
    batch, training = batch * cohort, of_cohort(training, cohort)
    height, width = (size, size) if isinstance(size, int) else size
    named = ModelName.parse(model) if isinstance(model, str) else model
    _refuse_giants(name, batch + decoys + others * batch, channels * height * width)
    shape = _Shape(height, width, channels, seed)
    pictures = shape.load(images, count=batch, labels_csv=labels_csv, skip=place * batch)
    there = len(pictures.class_names)
    pictures = renumbered(name, pictures, class_names) if class_names else pictures
    rest = _Rest(images, labels_csv, batches * batch) if gallery is None else _Rest(gallery, None, 0)
    decoyed = rest.load(decoys, shape) if decoys else None
    neighbour = rest.others(batch, shape, skip=decoys, unlike=pictures.images) if others else None
    if gallery is None and class_names:
        decoyed = None if decoyed is None else renumbered(name, decoyed, class_names)
        neighbour = None if neighbour is None else renumbered(name, neighbour, class_names)
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
    fit = batch_fit(network, held, training)
    doubted = doubts(fit, is_own=":" in named.name or checkpoint is not None, found=there, names=class_names)
    # Class indices of another source mean other classes, so its pictures get the labels of this batch.
    labels = pictures.labels.clone() if neighbour is None or gallery is not None else neighbour.labels
    return Client(
        network,
        pictures.images,
        pictures.labels,
        training=training,
        classes=classes,
        class_names=pictures.class_names,
        evaluation=EvaluationSet(
            decoys=None if decoyed is None else decoyed.images,
            decoy_labels=None if decoyed is None or gallery is not None else decoyed.labels,
            others=None if neighbour is None else Batch(neighbour.images, labels),
        ),
        name=name,
        model_name=str(named),
        source=str(images),
        weights="" if checkpoint is None else str(checkpoint),
        normalisation="" if normalisation is None else str(normalisation),
        notes=(*pictures.notes, *notes, *doubted),
        fit=fit,
        cohort=cohort,
    )


def _classes(name: str, pictures: Pictures, classes: int | None) -> int:
    """Return the number of classes; raise a `UsageError` if it is out of range or a label is too large for it."""
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
    """Raise a `UsageError` if all pictures together would have more than `MOST_VALUES` values."""
    if pictures * values > MOST_VALUES:
        raise UsageError(
            f"client {name!r}: {pictures} pictures of {values:,} values are more than the {MOST_VALUES:,} that are "
            "held at once; lower size, batch or decoys"
        )


@dataclass(frozen=True)
class _Shape:
    """Shape of the loaded pictures, and the seed of their choice."""

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
    """The pictures of a source that are in no batch; the batches have the first `taken` pictures of the choice."""

    source: str
    labels_csv: str | None
    taken: int

    def count(self) -> int:
        return count_pictures(self.source, labels_csv=self.labels_csv) - self.taken

    def load(self, count: int, shape: _Shape, *, skip: int = 0) -> Pictures:
        return shape.load(self.source, count=count, labels_csv=self.labels_csv, skip=skip + self.taken)

    def others(self, count: int, shape: _Shape, *, skip: int, unlike: Images) -> Pictures | None:
        """Load another client's pictures, as far as possible none that is a copy of a picture in the batch.

        Args:
            count: Number of pictures.
            shape: Their shape.
            skip: Number of further pictures that are taken.
            unlike: The pictures of the batch.

        Returns:
            The pictures; copies fill up what is missing. None if the source has too few pictures.
        """
        there = self.count() - skip
        if there < count:
            return None
        known = fingerprints(unlike)
        found = self.load(count, shape, skip=skip)
        copied = overlap(fingerprints(found.images), known).tolist()
        if not copied:
            return found
        fitting = max(count, MOST_VALUES // unlike[0].numel())
        wider = self.load(min(LOOKED * count, there, fitting), shape, skip=skip)
        copied = overlap(fingerprints(wider.images), known).tolist()
        order = [i for i in range(len(wider.images)) if i not in set(copied)] + copied
        return replace(wider, images=wider.images[order[:count]], labels=wider.labels[order[:count]])
