"""Reading .npz files that anybody may have written; number, size and type of arrays are checked before unpacking."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from unveil.core.errors import UsageError
from unveil.core.files import MIB, amount, reason_of, regular, shown

MEMBERS = 10_000
"""Most files in one archive; an .npz has one for each array."""

BYTES = 4096 * MIB
"""Most bytes of one archive unpacked, by its own list of sizes; a few kilobytes can unpack to terabytes."""

PLAIN = "biufcSU"  # NumPy's kinds of numbers and texts; other kinds would be unpickled, which can run code
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Array = npt.NDArray[Any]


def read_npz(
    path: Path, what: str, *, fix: str, most: int = BYTES, names: Sequence[str] | None = None
) -> Mapping[str, Array]:
    """Read the arrays of an .npz by name, in the machine's own byte order.

    Args:
        path: The file.
        what: The start of every message, such as `lpips`.
        fix: The end of every message.
        most: Most bytes of all read arrays together, unpacked.
        names: Names of the arrays to read, if the file has them; None for all.

    Raises:
        UsageError: The file is not regular, damaged or too large, or has anything but arrays of numbers and texts.
    """
    regular(path, what, fix=fix)
    start = f"{what}: {shown(path)}" if what else shown(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = bounded(archive)
            members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
            if len(members) < len(entries):
                raise ValueError("two of its members have the same name")
            members = {name: entry for name, entry in members.items() if names is None or name in names}
            size = sum(entry.file_size for entry in members.values())
            if size > most:
                raise ValueError(f"it unpacks to {amount(size)}, and at most {amount(most)} are read")
            return {name: _array(archive, entry, name) for name, entry in members.items()}
    except Exception as error:  # zipfile, its compressions and NumPy raise many kinds for a damaged archive
        raise UsageError(f"{start} cannot be read ({reason_of(error)}); {fix}") from None


def bounded(archive: zipfile.ZipFile) -> Sequence[zipfile.ZipInfo]:
    """Return the members of an archive.

    Raises:
        ValueError: The archive has more than `MEMBERS` members.
    """
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"it has {len(members)} members, and at most {MEMBERS} are read")
    return members


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Array:
    """Read one array.

    Raises:
        ValueError: The header is damaged, or has another type or size than the content.
    """
    with archive.open(entry) as stream:
        try:
            shape, is_fortran, dtype = HEADERS[npy.read_magic(stream)](stream)
        except Exception:  # NumPy evaluates the header as a Python literal, and a damaged one raises many kinds
            raise ValueError(f"{shown(name)} has no header of an array") from None
        if dtype.kind not in PLAIN or not dtype.itemsize:
            raise ValueError(f"{shown(name)} holds {shown(str(dtype), 40)}, not numbers or texts")
        wanted, there = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if min(shape, default=0) < 0 or wanted != there:
            raise ValueError(f"{shown(name)} claims the shape {shown(str(shape), 60)}, and {amount(there)} are there")
        content = bytearray(wanted)  # not bytes, because torch warns of arrays that are read-only
        view, done = memoryview(content), 0
        while piece := stream.read(min(wanted - done, MIB)):
            view[done : done + len(piece)] = piece
            done += len(piece)
        if done < wanted:
            raise ValueError(f"{shown(name)} ends early")
    array: Array = np.frombuffer(content, dtype) if wanted else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
