"""Per tensor, per bucket or over the whole update: the groups of entries that share a norm, a step or a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Generator, Tensor

from unveil.core import Tensors

Scope = Literal["tensor", "update"]


def each_group(
    tensors: Tensors, scope: Scope, change: Callable[[Tensor], Tensor], bucket: int | None = None
) -> dict[str, Tensor]:
    """Apply a function to every group of entries and put the results back in place.

    Args:
        tensors: The update's tensors.
        scope: One group for each tensor, or one for the whole update.
        change: Takes and returns a matrix of groups x entries; works on each row by itself. It may return a column
            (groups x 1), which then stands for every entry of its group.
        bucket: Cut each group into buckets of this many entries; the last one is padded with zeros.
    """
    if scope == "update":
        flat = torch.cat([t.reshape(-1) for t in tensors.values()])
        parts = torch.split(_rowwise(flat, change, bucket), [t.numel() for t in tensors.values()])
        return {name: part.reshape(t.shape) for (name, t), part in zip(tensors.items(), parts, strict=True)}
    return {name: _rowwise(t.reshape(-1), change, bucket).reshape(t.shape) for name, t in tensors.items()}


def _rowwise(flat: Tensor, change: Callable[[Tensor], Tensor], bucket: int | None) -> Tensor:
    size = bucket or flat.numel()
    padding = -flat.numel() % size
    rows = torch.nn.functional.pad(flat, (0, padding)) if padding else flat
    return change(rows.reshape(-1, size)).expand(-1, size).reshape(-1)[: flat.numel()]


def count_groups(tensors: Tensors, scope: Scope, bucket: int | None = None) -> int:
    """How many groups `each_group` makes, which is how many norms go over the wire."""
    sizes = [t.numel() for t in tensors.values()]
    sizes = [sum(sizes)] if scope == "update" else sizes
    return sum(-(-size // bucket) if bucket else 1 for size in sizes)


def uniform_like(values: Tensor, generator: Generator) -> Tensor:
    """Uniform numbers in [0, 1) of the same shape, drawn on the generator's device."""
    return torch.rand(values.shape, generator=generator, dtype=values.dtype, device=generator.device).to(values.device)


def normal_like(values: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers of the same shape, drawn on the generator's device."""
    return torch.randn(values.shape, generator=generator, dtype=values.dtype, device=generator.device).to(values.device)
