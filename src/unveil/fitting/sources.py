"""Pictures to learn from, and how to tell that a picture is one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from unveil.clients.pictures import all_pictures
from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.pixels import to_bytes
from unveil.core.types import Images
from unveil.fitting.archive import LEAST, MOST, read_archive

PART = 256  # pictures fingerprinted at once
HELD_OUT = 20  # one picture in 20, and one client in 20, is for validation
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Source:
    """Square pictures of one size with their classes.

    Args:
        name: What they are called in a model card.
        pixels: n x height x width x 3.
        labels: A class index each.
        class_names: A name for each class.
        notes: What was skipped where they come from, a sentence each.
    """

    name: str
    pixels: Pixels
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return int(self.pixels.shape[1])

    @cached_property
    def fingerprints(self) -> UInt8[Tensor, "n bytes"]:
        """One fingerprint a picture."""
        parts = [range(start, min(start + PART, len(self))) for start in range(0, len(self), PART)]
        return torch.cat([fingerprints(self.images(part)) for part in parts])

    def images(self, rows: Sequence[int]) -> Images:
        """Some of the pictures in [0, 1]."""
        return torch.from_numpy(self.pixels[list(rows)]).permute(0, 3, 1, 2).float() / 255

    def only(self, rows: Sequence[int]) -> Source:
        """The source with some of its pictures."""
        return Source(self.name, self.pixels[list(rows)], self.labels[list(rows)], self.class_names, self.notes)


def read_source(path: Path, *, size: int = 128, split: int | None = 0, complete: bool = False) -> Source:
    """Read a folder of pictures, which may have a sub-folder a class, or an .npz of encoded pictures.

    Args:
        path: The folder, or a file as in `read_archive`.
        size: Height and width to which a folder's pictures are brought; an .npz keeps its own.
        split: Which part of an .npz with a `split` is read; None for all.
        complete: Of an .npz with a `full_class` read only those classes: the others have a few pictures each.

    Raises:
        UsageError: A file or folder that cannot be used.
    """
    if not LEAST <= size <= MOST:
        raise UsageError(f"fit: expected a size of {LEAST} to {MOST} pixels, got {size}; 64 and 128 are usual")
    if path.suffix == ".npz":
        return _from_npz(path, split, complete)
    found = all_pictures(path, size=size, least=LEAST)
    pixels = to_bytes(found.images).permute(0, 2, 3, 1).numpy()
    return Source(path.name, np.ascontiguousarray(pixels), found.labels.numpy(), found.class_names, found.notes)


def _from_npz(path: Path, split: int | None, complete: bool) -> Source:
    held = read_archive(path)
    pixels, labels, names, parts = held.pixels, held.labels, held.class_names, held.split
    if complete and held.full_class is not None:
        places = {label: place for place, label in enumerate(held.full_class)}
        rest = np.isin(labels, list(places))
        pixels, labels = pixels[rest], np.array([places[int(label)] for label in labels[rest]], np.int64)
        names, parts = tuple(names[label] for label in places), None
    if split is not None and parts is not None:
        chosen = parts == split
        pixels, labels = pixels[chosen], labels[chosen]
    if not len(pixels):
        raise UsageError(
            f"{shown(path)} holds no picture of part {split}; give a file without split for all of its pictures"
        )
    return Source(path.stem, pixels, labels, names)


def joined(sources: Sequence[Source]) -> Source:
    """Several sources as one, all brought to the size of the first; classes of one name are one class."""
    first, *others = sources
    if not others:
        return first
    side = first.side
    names = list(dict.fromkeys(name for source in sources for name in source.class_names))
    pixels, labels = [], []
    for source in sources:
        pixels.append(source.pixels if source.side == side else _resized(source, side))
        places = np.array([names.index(name) for name in source.class_names])
        labels.append(places[source.labels])
    name = " and ".join(source.name for source in sources)
    notes = tuple(note for source in sources for note in source.notes)
    return Source(name, np.concatenate(pixels), np.concatenate(labels), tuple(names), notes)


def _resized(source: Source, side: int) -> Pixels:
    parts = []
    for start in range(0, len(source), PART):
        images = source.images(range(start, min(start + PART, len(source))))
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        parts.append(to_bytes(images).permute(0, 2, 3, 1).numpy())
    whole: Pixels = np.concatenate(parts)
    return whole


def apart_from(source: Source, evaluate: Sequence[Path], *, size: int = 128, leave_out: bool = False) -> Source:
    """The source, once no picture for evaluation is found among it.

    Args:
        source: The training pictures.
        evaluate: Folders or .npz files of pictures for evaluation; of an .npz with a `split`, part 1.
        size: Size of a folder's pictures.
        leave_out: Leave out the pictures that are also for evaluation instead of refusing.

    Raises:
        UsageError: A picture for evaluation is among it, or nothing is left without them.
    """
    for path in evaluate:
        both = known_from(path, source.fingerprints, size=size)
        if len(both) and not leave_out:
            raise UsageError(
                f"fit: {len(both)} training pictures of {source.name} are also in {path} (the first: number "
                f"{both[0] + 1}), which is for evaluation; take them out, or give --leave-out"
            )
        source = source.only(sorted(set(range(len(source))) - set(both)))
    if not len(source):
        raise UsageError("fit: every training picture is also for evaluation; give other pictures to train on")
    return source


def known_from(path: Path, some: UInt8[Tensor, "n bytes"], *, size: int) -> list[int]:
    """Which of some fingerprints are those of pictures for evaluation."""
    return [int(row) for row in overlap(some, read_source(path, size=size, split=1).fingerprints)]


def parted(source: Source, *, fewest: int) -> tuple[Source, Source]:
    """A source without its held-out pictures, and those: one in twenty, told by their fingerprints.

    So the same picture is on the same side whatever stands beside it and whatever the seed: what one training held out,
    another that goes on from its pairs does not learn.

    Args:
        source: The pictures.
        fewest: Pictures to hold out at least, where that is not more than half.
    """
    marks = [int.from_bytes(hashlib.sha256(row.numpy().tobytes()).digest()[:4], "big") for row in source.fingerprints]
    order = np.argsort(marks, kind="stable")
    count = max(sum(mark < 2**32 // HELD_OUT for mark in marks), min(fewest, len(source) // 2))
    return source.only(sorted(order[count:].tolist())), source.only(sorted(order[:count].tolist()))
