"""A scene: one client's model, batch and local training, before any channel or attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch.nn import Module

from unveil.core import Batch, Images, Knowledge, LocalTraining, Obfuscation
from unveil.errors import UsageError
from unveil.models import build_model
from unveil.network import draws_by_chance
from unveil.pictures import Pictures, count_pictures, load_pictures


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
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
        notes: What a reader must know of the pictures, a sentence each; printed with every result.
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
    notes: tuple[str, ...] = ()

    def knowledge(self, obfuscation: Obfuscation | None) -> Knowledge:
        """All that an attacker on this scene can be granted.

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


def make_scene(
    *,
    name: str,
    model: str,
    images: str,
    size: int,
    batch: int,
    classes: int | None = None,
    training: LocalTraining,
    labels_csv: str | None = None,
    gallery: str | None = None,
    seed: int = 0,
    decoys: int = 0,
    others: bool = False,
) -> Scene:
    """Load the pictures, build the model, and check that they fit together.

    Args:
        name: Its name in results.
        model: A name of the model zoo, or `package.module:factory`.
        images: `builtin`, or a folder; see `load_pictures`.
        size: Height and width of the pictures, pixels.
        batch: Pictures in the batch.
        classes: Number of classes, at least 2; None for as many as the pictures' source has.
        training: The client's local training.
        labels_csv: Labels instead of sub-folders; see `load_pictures`.
        gallery: Another source, for decoys and the other client; None for the rest of `images`.
        seed: Seed of the model's weights and of the choice of pictures.
        decoys: How many more pictures of the source to load for galleries.
        others: Load another client's batch too, if the source has enough pictures.

    Raises:
        UsageError: Pictures, labels and model that cannot be used, or not together.
    """
    pictures = load_pictures(images, count=batch, size=size, labels_csv=labels_csv, seed=seed)
    rest = _Rest(images, labels_csv, batch) if gallery is None else _Rest(gallery, None, 0)
    decoyed = rest.load(decoys, size=size, seed=seed) if decoys else None
    neighbour = None
    if others and rest.count() >= decoys + batch:
        neighbour = rest.load(batch, size=size, seed=seed, skip=decoys)
    classes = len(pictures.class_names) if classes is None else classes
    if classes < 2:
        raise UsageError(
            f"scene {name!r}: expected at least 2 classes, got {classes}, with which every gradient is zero; "
            "set classes or add a class"
        )
    highest = int(pictures.labels.max())
    if highest >= classes:
        raise UsageError(
            f"scene {name!r}: label {highest} ({pictures.class_names[highest]!r}) is out of range for "
            f"{classes} classes; set classes to at least {highest + 1} or leave it out"
        )
    channels, height, width = pictures.images.shape[1:]
    return Scene(
        name=name,
        model_name=model,
        model=build_model(model, image_shape=(channels, height, width), classes=classes, seed=seed),
        batch=Batch(pictures.images, pictures.labels),
        classes=classes,
        training=training,
        source=str(images),
        class_names=pictures.class_names,
        decoys=None if decoyed is None else decoyed.images,
        notes=pictures.notes,
        # Classes of another source are not this model's: its pictures stand under this batch's labels.
        others=None
        if neighbour is None
        else Batch(neighbour.images, neighbour.labels if gallery is None else pictures.labels.clone()),
    )


@dataclass(frozen=True)
class _Rest:
    """The pictures of a source that are not in the batch: `taken` of them are."""

    source: str
    labels_csv: str | None
    taken: int

    def count(self) -> int:
        return count_pictures(self.source, labels_csv=self.labels_csv) - self.taken

    def load(self, count: int, *, size: int, seed: int, skip: int = 0) -> Pictures:
        skip += self.taken
        return load_pictures(self.source, count=count, size=size, labels_csv=self.labels_csv, seed=seed, skip=skip)
