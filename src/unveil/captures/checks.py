"""Checks of what a file holds, before anything uses it: names, types, shapes and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.manifest import NAME, TENSORS, Manifest, is_name
from unveil.captures.recording import BEFORE, CLIENT, PARTS, SENT, Arrays
from unveil.core.files import quoted, shown

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types that tensors may have."""
PIECE = 1 << 22
"""Values that are checked at once, so that the check itself takes little memory."""

Parts = Mapping[str, Arrays]
"""Part, one of `PARTS` -> its tensors by name."""
Unchecked = Mapping[str, Mapping[str, Any]]
"""Part -> what a file has there by name, which may be anything."""


def parts_of(tensors: Mapping[str, Any]) -> Unchecked:
    """Sort tensors called `global/NAME`, `client/NAME`, `delta/NAME` or `gradient/NAME` into their parts.

    Tensors without such a prefix are a bare `state_dict`, which the client sent: then all of them must be without one.

    Raises:
        ValueError: Only some names have a prefix.
    """
    prefixed = [name for name in tensors if name.partition("/")[0] in PARTS and "/" in name]
    if not prefixed:
        return {CLIENT: tensors}
    if len(prefixed) < len(tensors):
        odd = next(name for name in tensors if name not in set(prefixed))
        raise ValueError(f"{quoted(odd, 60)} is in no part; call it {', '.join(f'{part}/…' for part in PARTS)}")
    found: dict[str, dict[str, Any]] = {}
    for name in prefixed:
        part, _, rest = name.partition("/")
        found.setdefault(part, {})[rest] = tensors[name]
    return found


def checked(parts: Unchecked, manifest: Manifest) -> tuple[Parts, Manifest]:
    """Check the parts of a recorded update against one another and against its manifest.

    Returns:
        The same parts, detached, and the manifest with the order of all sent tensors: its own, or that of the file, in
        which names that are numbers count up.

    Raises:
        ValueError: Something does not fit, or a tensor holds anything but finite numbers.
    """
    if sum(map(len, parts.values())) > TENSORS:
        raise ValueError(f"it has more than {TENSORS:,} tensors")
    kept = {part: {name: _tensor(part, name, value) for name, value in parts[part].items()} for part in parts}
    names = [name for part in SENT for name in kept.get(part, {})]
    if not names:
        raise ValueError(f"nothing in it was sent; it needs tensors called {', '.join(f'{part}/…' for part in SENT)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{quoted(_twice(names), 60)} is in more than one of {', '.join(SENT)}; keep one of them")
    before = kept.get(BEFORE, {})
    for part in SENT:
        for name, tensor in kept.get(part, {}).items():
            if name in before:
                _check_pair(f"{part}/{name}", tensor, before[name])
            elif before or part == CLIENT:
                raise ValueError(f"{quoted(f'{part}/{name}', 60)} has no {BEFORE}/ beside it")
    if manifest.order and set(manifest.order) != set(names):
        odd = min(set(manifest.order) ^ set(names))
        raise ValueError(f"the order and the sent tensors differ, such as by {quoted(odd, 60)}")
    return kept, replace(manifest, order=manifest.order or tuple(_ordered(names)))


def check_finite(name: str, tensor: Shaped[Tensor, " ..."]) -> None:
    """Raise a `ValueError` if a tensor holds NaN or an infinity."""
    flat = tensor.reshape(-1) if tensor.is_floating_point() else tensor.new_empty(0)
    for start in range(0, flat.numel(), PIECE):
        if not bool(torch.isfinite(flat[start : start + PIECE]).all()):
            raise ValueError(f"{quoted(name, 60)} holds NaN or infinite values")


def _tensor(part: str, name: str, value: Any) -> Shaped[Tensor, " ..."]:
    """Return a tensor, detached; raise a `ValueError` if it, or its name, cannot be used."""
    where = f"{part}/{name}"
    if not is_name(name):
        raise ValueError(f"{quoted(where, 60)} is no name of 1 to {NAME} printable characters")
    if not isinstance(value, Tensor):
        raise ValueError(f"{quoted(where, 60)} is a {type(value).__name__}, not a tensor of numbers")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu" or value.is_nested:
        raise ValueError(f"{quoted(where, 60)} is sparse, quantised, nested or not on the CPU; make it a plain tensor")
    if value.dtype not in DTYPES:
        raise ValueError(f"{quoted(where, 60)} holds {str(value.dtype).removeprefix('torch.')}, expected real numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        shape = shown(str(tuple(value.shape)), 60)
        raise ValueError(f"{quoted(where, 60)} claims the shape {shape} and repeats fewer values; make it contiguous")
    check_finite(where, value.detach())
    return value.detach()


def _check_pair(where: str, sent: Shaped[Tensor, " ..."], before: Shaped[Tensor, " ..."]) -> None:
    """Raise a `ValueError` unless a sent tensor has the shape of the one before it, and is of floats if that is."""
    if sent.shape != before.shape:
        shapes = f"{shown(str(tuple(sent.shape)), 60)}, and before training {shown(str(tuple(before.shape)), 60)}"
        raise ValueError(f"{quoted(where, 60)} has shape {shapes}")
    if sent.is_floating_point() != before.is_floating_point():
        raise ValueError(f"one of {quoted(where, 60)} and its {BEFORE}/ holds floats, the other whole numbers")


def _twice(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _ordered(names: list[str]) -> list[str]:
    """Return the names in the order of the file; names that are all numbers, as legacy clients give, count up."""
    return sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names
