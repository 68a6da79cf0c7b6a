"""Per tensor, per bucket or over the whole update: the groups of entries that share a norm, a step or a budget.

A stage behind a sparsifier works on the values that were sent, packed one after the other: groups and buckets are cut
from those, and what was not sent stays exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unveil.core.types import Tensors
from unveil.obfuscations.numerics import narrowed

Scope = Literal["tensor", "update"]
Masks = Mapping[str, Bool[Tensor, " ..."]]
Change = Callable[[Float[Tensor, "groups entries"]], Shaped[Tensor, "groups some"]]


def each_group(
    tensors: Tensors, scope: Scope, change: Change, bucket: int | None = None, *, masks: Masks | None = None
) -> dict[str, Shaped[Tensor, " ..."]]:
    """Apply a function to every group of the entries that were sent, and put the results back in place.

    Args:
        tensors: The update's tensors.
        scope: One group for each tensor, or one for the whole update.
        change: Takes and returns a matrix of groups x entries; works on each row by itself. It may return a column
            (groups x 1), which then stands for every entry of its group. Called a second time for a last bucket that
            is shorter, and not at all where nothing was sent.
        bucket: Cut each group into buckets of this many entries; the last one may be shorter.
        masks: Which entries were sent (`Update.masks`); a tensor without a mask was sent whole.

    Returns:
        Tensors of the same shapes. Where the function keeps floating point, of the same types; entries that were not
        sent are zero.
    """
    found = _packed(tensors, scope, change, bucket, masks or {})
    return {name: _unpacked(part, tensors[name], (masks or {}).get(name)) for name, part in found.items()}


def each_step(
    tensors: Tensors, scope: Scope, step: Change, bucket: int | None = None, *, masks: Masks | None = None
) -> dict[str, Float[Tensor, " ..."]]:
    """One number for each group, such as a step or a threshold, as a tensor that is broadcast to its entries.

    Args:
        tensors: The update's tensors.
        scope: As in `each_group`.
        step: Takes a matrix of groups x entries and returns a column, groups x 1.
        bucket: As in `each_group`.
        masks: As in `each_group`.

    Returns:
        A 0-dimensional tensor for each name where one group holds all of its entries, else one of the tensor's shape;
        of the type that `step` returns, float64 included. 0 where nothing was sent.
    """
    masks = masks or {}
    if bucket is not None:
        found = _packed(tensors, scope, step, bucket, masks)
        return {n: _scattered(part, tensors[n].shape, masks.get(n)) for n, part in found.items()}
    if scope == "update":
        row = _concatenated(tensors, masks)
        one = step(row[None]).reshape(()) if row.numel() else row.new_zeros(())
        return dict.fromkeys(tensors, one)
    rows = {name: packed(t, masks.get(name)) for name, t in tensors.items()}
    return {n: step(row[None]).reshape(()) if row.numel() else row.new_zeros(()) for n, row in rows.items()}


def count_groups(tensors: Tensors, scope: Scope, bucket: int | None = None, *, masks: Masks | None = None) -> int:
    """How many groups `each_group` makes of what was sent, which is how many norms go over the wire."""
    masks = masks or {}
    sizes = [int(torch.count_nonzero(masks[n])) if n in masks else t.numel() for n, t in tensors.items()]
    sizes = [sum(sizes)] if scope == "update" else sizes
    return sum(-(-size // bucket) if bucket else min(size, 1) for size in sizes)


def packed(tensor: Shaped[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None) -> Shaped[Tensor, " sent"]:
    """The values that were sent, in row-major order."""
    return tensor.reshape(-1) if mask is None else tensor[mask]


def _packed(
    tensors: Tensors, scope: Scope, change: Change, bucket: int | None, masks: Masks
) -> dict[str, Shaped[Tensor, " ..."]]:
    if scope == "tensor":
        return {name: _rowwise(packed(t, masks.get(name)), change, bucket) for name, t in tensors.items()}
    sizes = [packed(t, masks.get(name)).numel() for name, t in tensors.items()]
    parts = torch.split(_rowwise(_concatenated(tensors, masks), change, bucket), sizes)
    return dict(zip(tensors, parts, strict=True))


def _concatenated(tensors: Tensors, masks: Masks) -> Float[Tensor, " sent"]:
    rows = [packed(t, masks.get(name)) for name, t in tensors.items()]
    return torch.cat(rows) if rows else torch.zeros(0)


def _rowwise(flat: Float[Tensor, " sent"], change: Change, bucket: int | None) -> Shaped[Tensor, " sent"]:
    if not flat.numel():
        return flat
    size = min(bucket or flat.numel(), flat.numel())
    whole = flat.numel() - flat.numel() % size
    done = change(flat[:whole].reshape(-1, size)).expand(-1, size).reshape(-1)
    if whole == flat.numel():
        return done
    rest = change(flat[whole:][None]).expand(-1, flat.numel() - whole).reshape(-1)
    return torch.cat([done, rest])


def _unpacked(
    part: Shaped[Tensor, " sent"], like: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"] | None
) -> Shaped[Tensor, "*shape"]:
    values = narrowed(part, like.dtype) if part.is_floating_point() else part
    return _scattered(values, like.shape, mask)


def _scattered(
    part: Shaped[Tensor, " sent"], shape: torch.Size, mask: Bool[Tensor, "*shape"] | None
) -> Shaped[Tensor, "*shape"]:
    if mask is None:
        return part.reshape(shape)
    out = part.new_zeros(shape)
    out[mask] = part
    return out
