"""Reading an .npz of encoded pictures; all its tables are checked before the first picture is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unveil.clients.pictures.decode import read_picture, size_of
from unveil.core.arrays import Array, read_npz
from unveil.core.errors import UsageError
from unveil.core.files import amount, reason_of, shown

LEAST, MOST = 16, 1024
"""Smallest and largest side of a training picture in pixels; a fingerprint needs 16 x 17 places."""

SHEET = 64  # most pictures along a side of a sheet
ROOM = 8 * 2**30
"""Most bytes of all decoded pictures: about 160,000 pictures of 128 x 128 pixels."""

CLASSES = 1_000_000  # most classes
TABLES = ("data", "offsets", "labels", "classes", "sheet", "split", "full_class")
EXPECTED = "expected data, offsets, labels and classes in it, all pictures square and of one size"


@dataclass(frozen=True, eq=False)
class Archive:
    """The pictures of an .npz with their labels.

    Args:
        pixels: n x side x side x 3, 0 to 255.
        labels: The class index of each picture.
        class_names: Name of each class.
        split: Number of the part to which each picture belongs; None if the file has no parts.
        full_class: Classes of which the file has every picture; None if it does not say.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    split: npt.NDArray[np.int64] | None
    full_class: tuple[int, ...] | None


def read_archive(path: Path) -> Archive:
    """Read all pictures of the file.

    Args:
        path: An .npz with `data` (the concatenated bytes of all picture files), `offsets` (the start of each file, and
            the end of the last), `labels` and `classes`. Optional are `sheet`, if each file is a sheet of `sheet` x
            `sheet` pictures, sorted by class; and `split` and `full_class` as in `Archive`.

    Raises:
        UsageError: The file is no such .npz, a table does not fit, or the pictures are not square and of one size of 16
            to 1,024 pixels.
    """
    fix = "give a folder of pictures or an .npz of them"
    held = read_npz(path, "", fix=fix, names=TABLES)
    try:
        return _checked(held)
    except UsageError as error:
        raise UsageError(f"{shown(path)} cannot be read as pictures: {error}") from None
    except ValueError as error:
        raise UsageError(f"{shown(path)} cannot be read as pictures ({reason_of(error)}); {EXPECTED}") from None


def _checked(held: Mapping[str, Array]) -> Archive:
    """Check the tables and decode the pictures; raise a `ValueError` or `UsageError` if something does not fit."""
    for name in TABLES[:4]:
        if name not in held:
            raise ValueError(f"{name} is missing")
    names = tuple(str(name) for name in _table(held, "classes", "SU", "texts").tolist())
    if not 0 < len(names) <= CLASSES:
        raise ValueError(f"classes names {len(names)} classes")
    sheet = _sheet(held)
    pixels = _pixels(_blobs(held), sheet)
    labels = _whole(held, "labels")
    if "sheet" in held and len(labels) != len(pixels) and len(pixels) % len(names) == 0:
        labels = np.repeat(np.arange(len(names)), len(pixels) // len(names))
    if len(labels) != len(pixels):
        raise ValueError(f"{len(labels)} labels do not go with {len(pixels)} pictures")
    _within(labels, "labels", len(names))
    split = _whole(held, "split") if "split" in held else None
    if split is not None and len(split) != len(pixels):
        raise ValueError(f"split has {len(split)} entries for {len(pixels)} pictures")
    full = _whole(held, "full_class") if "full_class" in held else None
    if full is not None:
        _within(full, "full_class", len(names))
        if len(set(full.tolist())) != len(full):
            raise ValueError("full_class names a class twice")
    return Archive(pixels, labels, names, split, None if full is None else tuple(full.tolist()))


def _table(held: Mapping[str, Array], name: str, kinds: str, what: str) -> Array:
    """Return a table; raise a `ValueError` unless it has one dimension and one of NumPy's `kinds` of types."""
    table = held[name]
    if table.ndim != 1 or table.dtype.kind not in kinds:
        shape = shown(str(table.shape), 40)
        raise ValueError(f"{name} is a table of shape {shape} and type {table.dtype}, not a list of {what}")
    return table


def _whole(held: Mapping[str, Array], name: str) -> npt.NDArray[np.int64]:
    """Return a table of integers; raise a `ValueError` if it is another, or has too large a number."""
    table = _table(held, name, "iu", "whole numbers")
    if table.dtype == np.uint64 and len(table) and int(table.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {table.max()}, which no class or place is")
    return table.astype(np.int64)


def _within(table: npt.NDArray[np.int64], name: str, classes: int) -> None:
    """Raise a `ValueError` unless all entries are class indices from 0 to `classes` - 1."""
    wrong = np.flatnonzero((table < 0) | (table >= classes))
    if len(wrong):
        raise ValueError(f"entry {wrong[0] + 1} of {name} is {table[wrong[0]]}, and there are {classes} classes from 0")


def _sheet(held: Mapping[str, Array]) -> int:
    """Return the number of pictures along a side of each sheet; 1 if the files are no sheets."""
    if "sheet" not in held:
        return 1
    sheet = held["sheet"]
    if sheet.ndim or sheet.dtype.kind not in "iu" or not 0 < int(sheet) <= SHEET:
        raise ValueError(f"sheet is {shown(str(sheet), 40)}, not one whole number of 1 to {SHEET}")
    return int(sheet)


def _blobs(held: Mapping[str, Array]) -> Sequence[bytes]:
    """Return the content of each picture file."""
    data, offsets = held["data"], _whole(held, "offsets")
    if data.ndim != 1 or data.dtype != np.uint8:
        raise ValueError(f"data is of shape {shown(str(data.shape), 40)} and type {data.dtype}, not a list of bytes")
    if len(offsets) < 2:
        raise ValueError(f"{len(offsets)} offsets stand for no picture")
    if offsets[0] < 0 or offsets[-1] > len(data) or bool((np.diff(offsets) <= 0).any()):
        raise ValueError(f"offsets do not rise from 0 to the {len(data)} bytes of data")
    return [data[a:b].tobytes() for a, b in pairwise(offsets.tolist())]


def _pixels(blobs: Sequence[bytes], sheet: int) -> npt.NDArray[np.uint8]:
    """Decode all pictures, n x side x side x 3, after checking the size of each."""
    whole, _ = size_of(blobs[0], _named(0))
    side = whole // sheet
    if not LEAST <= side <= MOST:
        raise ValueError(f"its pictures have {side} pixels a side, and {LEAST} to {MOST} are learned from")
    if len(blobs) * whole**2 * 3 > ROOM:
        raise ValueError(f"its pictures unpack to {amount(len(blobs) * whole**2 * 3)}, and at most {amount(ROOM)} fit")
    for number, blob in enumerate(blobs):  # all sizes are checked before the first picture is decoded
        size = size_of(blob, _named(number))
        if size != (side * sheet, side * sheet):
            expected = f"{side * sheet} x {side * sheet}"
            raise ValueError(f"{_named(number)} has {size[0]} x {size[1]} pixels, expected {expected}")
    pixels = np.empty((len(blobs), sheet, sheet, side, side, 3), np.uint8)
    for number, blob in enumerate(blobs):
        array = np.asarray(read_picture(blob, _named(number)))
        pixels[number] = array.reshape(sheet, side, sheet, side, 3).transpose(0, 2, 1, 3, 4)
    return pixels.reshape(-1, side, side, 3)


def _named(number: int) -> str:
    return f"number {number + 1}"
