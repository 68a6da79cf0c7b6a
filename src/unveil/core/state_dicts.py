"""Reading files of weights that anybody may have written: tensors by name; no code in them is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unveil.core.arrays import Array, bounded, read_npz
from unveil.core.errors import UsageError
from unveil.core.files import MIB, amount, reason_of, regular, shown

BYTES = 1024 * MIB
"""Most bytes of a file of weights, packed and unpacked; the largest in use here, a whole AlexNet, has 233 MiB."""


def read_weights(path: Path, what: str, *, fix: str, absent: str | None = None) -> Mapping[str, Any]:
    """Read what a file of weights holds, by name: tensors, and other values, which the caller must check.

    Args:
        path: An .npz, or a file of `torch.save`: a mapping, bare or under `state_dict`.
        what: The start of every message, such as `lpips`.
        fix: The end of every message.
        absent: The end of the message if there is no such file; None for `fix`.

    Raises:
        UsageError: The file is not regular, too large, damaged, or holds no mapping from names.
    """
    regular(path, what, fix=fix, absent=absent, most=BYTES)
    if path.suffix == ".npz":
        return {name: _tensor(array) for name, array in read_npz(path, what, fix=fix, most=BYTES).items()}
    try:
        found: Any = _load(path)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{what}: {shown(path)} cannot be read (it is no file of weights, or holds more than tensors); {fix}"
        ) from None
    except Exception as error:  # a damaged file raises what torch, zip and the pickle inside raise
        raise UsageError(f"{what}: {shown(path)} cannot be read ({reason_of(error)}); {fix}") from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise UsageError(f"{what}: {shown(path)} holds a {type(found).__name__}, expected tensors by name; {fix}")
    named = {name: value for name, value in found.items() if isinstance(name, str)}
    if not named:
        raise UsageError(f"{what}: {shown(path)} holds no tensors by name; {fix}")
    return named


def take(found: Mapping[str, Any], name: str, shape: Sequence[int], where: str, *, fix: str) -> Float[Tensor, " ..."]:
    """Return one tensor that `read_weights` gave, in float32 and in the given shape.

    Args:
        found: The values that `read_weights` returned.
        name: The tensor's name.
        shape: The shape of the result; the tensor in the file may have more or fewer axes of length 1.
        where: The start of every message: what the tensor is for, and the file.
        fix: The end of every message.

    Raises:
        UsageError: The tensor is missing, has another shape, or holds anything but finite floating-point numbers.
    """
    if name not in found:
        raise UsageError(f"{where} has no {name} of shape {tuple(shape)}; {fix}")
    value = found[name]
    if not torch.is_tensor(value):
        raise UsageError(f"{where}: expected numbers as {name}, got {_kind(value)}; {fix}")
    if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
        raise UsageError(
            f"{where}: {name} has shape {shown(str(tuple(value.shape)), 60)}, expected {tuple(shape)}; {fix}"
        )
    if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
        raise UsageError(f"{where}: expected floating-point numbers as {name}, got {_kind(value)}; {fix}")
    tensor: Tensor = value.detach().float().reshape(tuple(shape))
    if not bool(torch.isfinite(tensor).all()):
        raise UsageError(f"{where}: {name} holds NaN or infinite values; {fix}")
    return tensor


def _load(path: Path) -> Any:
    """Load a file of `torch.save`, which may hold tensors and plain containers only.

    Raises:
        ValueError: The file unpacks to more than `BYTES`.
        Exception: The file is damaged, or holds other objects.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in bounded(archive))
        if size > BYTES:
            raise ValueError(f"it unpacks to {amount(size)}, and at most {amount(BYTES)} are read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of formats of former versions, which it can read
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensor(array: Array) -> Shaped[Tensor, " ..."] | Array:
    """Return the array as a tensor that shares its memory; the array itself if torch has no such type."""
    try:
        return torch.from_numpy(array)
    except TypeError:  # texts, and numbers that torch has no type for
        return array


def _kind(value: Any) -> str:
    """Return the element type of an array or tensor, or the Python type of any other value, for a message."""
    kind = getattr(value, "dtype", None)
    return str(kind).removeprefix("torch.") if kind is not None else f"a {type(value).__name__}"
