"""The pictures of a federation: those of its clients, those that test its model, and decoys."""

from __future__ import annotations

from dataclasses import dataclass

from unveil.advice.tiles import tiles
from unveil.clients.class_names import renumbered
from unveil.clients.pictures import BUILTIN, Pictures, load_pictures
from unveil.core.batch import Batch
from unveil.core.errors import UsageError

WHO = "federation"
"""The name in messages about pictures and labels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FederationData:
    """The pictures of a federation, all of one shape; no picture is in two parts.

    Args:
        train: The clients' pictures, those of the first client first.
        test: The pictures on which accuracy is measured.
        decoys: Other pictures, for re-identification; None for none.
        classes: Number of classes.
        class_names: Name of each class.
        source: Where the clients' pictures came from, for results.
        notes: What a reader must know of the source, a sentence each.
    """

    train: Batch
    test: Batch
    decoys: Batch | None
    classes: int
    class_names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where pictures come from, and how they are made.

    Args:
        images: `builtin` for tiles of the built-in photographs, or a folder with one sub-folder a class.
        size: Height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        seed: Seed of the choice.
        class_names: Name of each class of the model, in the order of its outputs; empty for the source's order.
        name: Its name in results; empty for `images`.
    """

    images: str
    size: tuple[int, int]
    channels: int
    seed: int
    class_names: tuple[str, ...] = ()
    name: str = ""

    def load(self, count: int, *, skip: int = 0) -> Pictures:
        """Load pictures of the choice; errors as in `load_pictures`."""
        if self.images == BUILTIN:
            found = tiles(count, size=self.size, channels=self.channels, seed=self.seed, skip=skip)
        else:
            found = load_pictures(
                self.images, count=count, size=self.size, channels=self.channels, seed=self.seed, skip=skip
            )
        return renumbered(WHO, found, self.class_names) if self.class_names else found


def load_data(
    source: Source, *, train: int, test: int, decoys: int, classes: int | None = None, tested: Source | None = None
) -> FederationData:
    """Load all pictures of a federation.

    Args:
        source: The source of the clients' pictures, and of the decoys.
        train: Number of pictures of all clients together.
        test: Number of test pictures.
        decoys: Number of decoys.
        classes: Number of classes of the model; None for those of the source.
        tested: The source of the test pictures, with the class names of `source`; None for the rest of `source`.

    Raises:
        UsageError: A source cannot be used or has too few pictures, or a label does not fit.
    """
    if test < 1:
        raise UsageError(f"{WHO}: expected at least 1 test picture, got {test}; some hundred are usual")
    own = source.load(train)
    taken = train
    if tested is None:
        others = source.load(test, skip=taken)
        taken += test
    else:
        others = tested.load(test)
        if not source.class_names:
            others = renumbered(WHO, others, own.class_names)
    rest = source.load(decoys, skip=taken) if decoys else None
    number = classes or len(own.class_names)
    highest = max(int(part.labels.max()) for part in (own, others))
    if not number >= 2 or highest >= number:
        raise UsageError(
            f"{WHO}: the pictures show {highest + 1} classes, and the model tells {number} apart; set classes to at "
            f"least {max(highest + 1, 2)}, or leave it out"
        )
    return FederationData(
        train=Batch(own.images, own.labels),
        test=Batch(others.images, others.labels),
        decoys=None if rest is None else Batch(rest.images, rest.labels),
        classes=number,
        class_names=own.class_names,
        source=source.name or source.images,
        notes=own.notes,
    )
