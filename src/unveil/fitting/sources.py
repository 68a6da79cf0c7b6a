"""Sources of training pictures, and finding pictures for evaluation among them."""

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

PART = 256  # pictures that are processed at once
HELD_OUT = 20  # one picture in 20, and one client in 20, is for validation
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Source:
    """Square pictures of one size with their classes.

    Args:
        name: Name of the source in a model card.
        pixels: n x side x side x 3, 0 to 255.
        labels: The class index of each picture.
        class_names: Name of each class.
        notes: Which files of the source were skipped, a sentence each.
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
        """Height and width of the pictures in pixels."""
        return int(self.pixels.shape[1])

    @cached_property
    def fingerprints(self) -> UInt8[Tensor, "n bytes"]:
        """The fingerprint of each picture."""
        parts = [range(start, min(start + PART, len(self))) for start in range(0, len(self), PART)]
        return torch.cat([fingerprints(self.images(part)) for part in parts])

    def images(self, rows: Sequence[int]) -> Images:
        """Return the pictures of these rows, in [0, 1]."""
        return torch.from_numpy(self.pixels[list(rows)]).permute(0, 3, 1, 2).float() / 255

    def only(self, rows: Sequence[int]) -> Source:
        """Return a source of the pictures of these rows."""
        return Source(self.name, self.pixels[list(rows)], self.labels[list(rows)], self.class_names, self.notes)


def read_source(path: Path, *, size: int = 128, split: int | None = 0, complete: bool = False) -> Source:
    """Read a folder of pictures, which may have a sub-folder for each class, or an .npz of encoded pictures.

    Args:
        path: The folder, or a file as in `read_archive`.
        size: Height and width in pixels to which a folder's pictures are brought; those of an .npz keep their size.
        split: Number of the part to read of an .npz with a `split`; None for all parts.
        complete: Read only the classes in `full_class` of an .npz that has it; the other classes have few pictures.

    Raises:
        UsageError: The file or folder cannot be used, or has no pictures.
    """
    if not LEAST <= size <= MOST:
        raise UsageError(f"fit: expected a size of {LEAST} to {MOST} pixels, got {size}; 64 and 128 are usual")
    if path.suffix == ".npz":
        return _from_npz(path, split, complete)
    found = all_pictures(path, size=size, least=LEAST)
    pixels = to_bytes(found.images).permute(0, 2, 3, 1).numpy()
    return Source(path.name, np.ascontiguousarray(pixels), found.labels.numpy(), found.class_names, found.notes)


def _from_npz(path: Path, split: int | None, complete: bool) -> Source:
    """Read an .npz; arguments and errors as in `read_source`."""
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
    """Join several sources; all pictures get the size of the first source, and classes of one name become one class."""
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
    """Return the pixels of all pictures, resized to `side` x `side`."""
    parts = []
    for start in range(0, len(source), PART):
        images = source.images(range(start, min(start + PART, len(source))))
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        parts.append(to_bytes(images).permute(0, 2, 3, 1).numpy())
    whole: Pixels = np.concatenate(parts)
    return whole


def apart_from(source: Source, evaluate: Sequence[Path], *, size: int = 128, leave_out: bool = False) -> Source:
    """Check that no training picture is also for evaluation.

    Args:
        source: The training pictures.
        evaluate: Folders or .npz files of pictures for evaluation; of an .npz with a `split`, only part 1 is read.
        size: Height and width in pixels to which a folder's pictures are brought.
        leave_out: Leave out training pictures that are also for evaluation, instead of raising an error.

    Returns:
        The training pictures.

    Raises:
        UsageError: A training picture is also for evaluation, or none are left.
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
    """Return the indices of those fingerprints that match a picture for evaluation in `path`."""
    return [int(row) for row in overlap(some, read_source(path, size=size, split=1).fingerprints)]


def parted(source: Source, *, fewest: int) -> tuple[Source, Source]:
    """Split a source into training pictures and held-out pictures, about one in twenty.

    A hash of a picture's fingerprint decides, and neither the seed nor the other pictures. So a training that continues
    from another's pairs does not learn from pictures that the other held out.

    Args:
        source: The pictures.
        fewest: Least number of held-out pictures; at most half of all pictures are held out for it.

    Returns:
        The source of training pictures, and the source of held-out pictures.
    """
    marks = [int.from_bytes(hashlib.sha256(row.numpy().tobytes()).digest()[:4], "big") for row in source.fingerprints]
    order = np.argsort(marks, kind="stable")
    count = max(sum(mark < 2**32 // HELD_OUT for mark in marks), min(fewest, len(source) // 2))
    return source.only(sorted(order[count:].tolist())), source.only(sorted(order[:count].tolist()))
