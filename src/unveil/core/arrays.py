"""Arrays of .npz files that anybody may have written: counted, measured and typed before they are unpacked."""

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
"""Files in one archive; an .npz has as many as it has arrays."""

BYTES = 4096 * MIB
"""Of one archive unpacked; the archive says how many it would be, and a few kilobytes can become terabytes."""

PLAIN = "biufcSU"  # NumPy's kinds of numbers and texts; objects would have to be unpickled
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Array = npt.NDArray[Any]


def read_npz(
    path: Path, what: str, *, fix: str, most: int = BYTES, names: Sequence[str] | None = None
) -> Mapping[str, Array]:
    """The arrays of an .npz by name, in the machine's own byte order.

    Args:
        path: The file.
        what: The start of every message, such as `lpips`.
        fix: The end of every message.
        most: Bytes that the arrays may have together, unpacked.
        names: Arrays that are wanted, where they are there: others are not unpacked. None for all.

    Raises:
        UsageError: It is no regular file or damaged, holds anything but arrays of numbers and texts, or is too large.
    """
    regular(path, what, fix=fix)
    start = f"{what}: {shown(path)}" if what else shown(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry for entry in bounded(archive)}
            members = {name: entry for name, entry in members.items() if names is None or name in names}
            size = sum(entry.file_size for entry in members.values())
            if size > most:
                raise ValueError(f"it unpacks to {amount(size)}, and at most {amount(most)} are read")
            return {name: _array(archive, entry, name) for name, entry in members.items()}
    except Exception as error:  # a damaged archive raises what zip, its compressions and NumPy's headers raise
        raise UsageError(f"{start} cannot be read ({reason_of(error)}); {fix}") from None


def bounded(archive: zipfile.ZipFile) -> Sequence[zipfile.ZipInfo]:
    """The members of an archive.

    Raises:
        ValueError: There are too many.
    """
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"it has {len(members)} members, and at most {MEMBERS} are read")
    return members


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Array:
    with archive.open(entry) as stream:
        try:
            shape, is_fortran, dtype = HEADERS[npy.read_magic(stream)](stream)
        except Exception:  # a header is a Python literal, and anything may be in one
            raise ValueError(f"{shown(name)} has no header of an array") from None
        if dtype.kind not in PLAIN or not dtype.itemsize:
            raise ValueError(f"{shown(name)} holds {shown(str(dtype), 40)}, not numbers or texts")
        wanted, there = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if min(shape, default=0) < 0 or wanted != there:
            raise ValueError(f"{shown(name)} claims the shape {shown(str(shape), 60)}, and {amount(there)} are there")
        content = bytearray(stream.read(wanted))  # not bytes: arrays that cannot be written make torch complain
    array: Array = np.frombuffer(content, dtype) if wanted else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)
