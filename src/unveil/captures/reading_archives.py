"""Reading .npz and .pt files that anybody may have written; no code in them is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unveil.captures.pickle_checks import check_pickle
from unveil.captures.recording import PARTS
from unveil.captures.zip_checks import SLACK, members_of
from unveil.core.arrays import Array, read_npz
from unveil.core.files import MIB

MANIFEST = "manifest"
"""Name of the manifest, a text, beside the tensors of an .npz or .pt."""
PICKLE = 16 * MIB
"""Most bytes of the pickle in a .pt; that of 10,000 tensors has about 2 MiB."""


def read_archived_npz(path: Path, fix: str) -> tuple[dict[str, Any], str | None]:
    """Read an .npz: its tensors by name, and the text of its manifest.

    Raises:
        ValueError: It is damaged, or unpacks to much more than it has; a `UsageError` is one too.
    """
    with path.open("rb") as file:
        size = sum(member.file_size for member in members_of(file, packed=True))
    found = dict(read_npz(path, "recorded update", fix=fix, most=size + SLACK))
    text = found.pop(MANIFEST, None)
    if text is not None and (text.dtype.kind != "U" or text.size != 1):
        raise ValueError("its manifest is no text")
    return {name: _tensor(array) for name, array in found.items()}, None if text is None else str(text.item())


def read_pt(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read what `torch.save` wrote: tensors by name, or `{"global": ..., "client": ...}`, each tensors by name.

    Raises:
        ValueError: It is damaged, in torch's format of before version 1.6, or holds anything but tensors by name.
    """
    with path.open("rb") as file:
        pickles = [member for member in members_of(file, packed=False) if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > PICKLE:
            raise ValueError("it is no archive of torch.save with one small pickle")
        with zipfile.ZipFile(file) as archive:
            check_pickle(archive.read(pickles[0]))
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found: Any = torch.load(file, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                raise ValueError("it holds more than tensors by name") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, expected tensors by name")
    text = found.pop(MANIFEST, None) if isinstance(found, dict) else None
    if text is not None and not isinstance(text, str):
        raise ValueError("its manifest is no text")
    return _flat(found), text


def _flat(found: Mapping[Any, Any]) -> dict[str, Any]:
    """Return tensors under names such as `client/conv.weight`, if the file has a mapping for each part."""
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise ValueError(f"it names something by a {type(name).__name__}, expected texts")
        if name in PARTS and isinstance(value, Mapping):
            if not all(isinstance(inner, str) for inner in value):
                raise ValueError(f"its {name} names something by other things than texts")
            flat.update({f"{name}/{inner}": tensor for inner, tensor in value.items()})
        else:
            flat[name] = value
    return flat


def _tensor(array: Array) -> Any:
    """Return the array as a tensor that shares its memory; the array itself if torch has no such type."""
    try:
        return torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)
    except TypeError:  # texts, and numbers that torch has no type for
        return array
