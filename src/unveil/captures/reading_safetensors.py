"""Reading .safetensors files that anybody may have written.

The header is checked against the file's size before the rest is read. Tensors then share the memory of the one copy.
The format: https://huggingface.co/docs/safetensors/index#format.
"""

from __future__ import annotations

import math
import os
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.manifest import TENSORS
from unveil.captures.strict_json import parsed
from unveil.core.files import MIB, amount, quoted, shown

HEADER = 2 * MIB
"""Most bytes of a header; that of 10,000 tensors has about 1.5 MiB."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types that are read, by their names in headers."""
MOST = 1 << 40
"""Largest side of a tensor, and largest offset."""


def read_safetensors(path: Path) -> tuple[dict[str, Shaped[Tensor, " ..."]], dict[str, str]]:
    """Read a file: its tensors by name, in the order of the header, and its metadata.

    Raises:
        ValueError: The header is damaged, or does not describe every byte of the file exactly once.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _header(file, size)
        metadata = _metadata(header.pop("__metadata__", {}))
        if len(header) > TENSORS:
            raise ValueError(f"it has {len(header):,} tensors, and at most {TENSORS:,} are read")
        places = {name: _place(name, entry) for name, entry in header.items()}
        _check_gapless([place[2:] for place in places.values()], size - start)
        content = bytearray(size - start)
        if _fill(file, content) < len(content):
            raise ValueError("it became shorter while it was read")
    return {name: _tensor(name, content, *place) for name, place in places.items()}, metadata


def _header(file: BufferedReader, size: int) -> tuple[dict[str, Any], int]:
    """Return the parsed header, and where the tensors' bytes start in the file."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError("it is shorter than its header")
    if length > HEADER:
        raise ValueError(f"its header has {amount(length)}, and at most {amount(HEADER)} are read")
    try:
        header = parsed(file.read(length))
    except ValueError as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    return header, 8 + length


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata is no table of texts")
    return found


def _place(name: str, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
    """Return type, shape, first byte and last byte (exclusive) of a tensor; raise a `ValueError` if they do not fit."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header says of {quoted(name, 60)} not just dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{quoted(name, 60)} has the type {shown(str(kind), 40)}, and {', '.join(DTYPES)} are read")
    if not _are_sizes(shape) or len(shape) > 16:
        raise ValueError(f"the shape of {quoted(name, 60)} is no list of at most 16 whole numbers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the data_offsets of {quoted(name, 60)} are not two whole numbers")
    dtype = DTYPES[kind]
    wanted, there = math.prod(shape) * dtype.itemsize, offsets[1] - offsets[0]
    if wanted != there:
        raise ValueError(f"{quoted(name, 60)} claims the shape {shown(str(shape), 60)}, and has {there} bytes")
    return dtype, shape, offsets[0], offsets[1]


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MOST for value in values)


def _check_gapless(places: list[tuple[int, int]], size: int) -> None:
    """Raise a `ValueError` unless the tensors lie one behind the other and fill the file."""
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError("its tensors overlap, or there are bytes between them")
        end = last
    if end != size:
        raise ValueError(f"its tensors have {end:,} bytes, and {size:,} are there")


def _fill(file: BufferedReader, content: bytearray) -> int:
    """Read into the buffer until it is full or the file ends; return how many bytes were read."""
    view, done = memoryview(content), 0
    while done < len(content) and (count := file.readinto(view[done:])):
        done += count
    return done


def _tensor(
    name: str, content: bytearray, dtype: torch.dtype, shape: list[int], first: int, last: int
) -> Shaped[Tensor, " ..."]:
    if first == last:
        return torch.empty(shape, dtype=dtype)
    if first % dtype.itemsize:  # torch computes with aligned values only
        content, first, last = content[first:last], 0, last - first
    if dtype == torch.bool and torch.frombuffer(content, dtype=torch.uint8)[first:last].max() > 1:
        raise ValueError(f"{quoted(name, 60)} holds bytes that are neither true nor false")
    count = (last - first) // dtype.itemsize
    return torch.frombuffer(content, dtype=dtype, count=count, offset=first).reshape(shape)
