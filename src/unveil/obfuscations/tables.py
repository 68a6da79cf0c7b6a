"""The levels of table quantisers, as published, and what a level tells of the value that was rounded to it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of the normal distribution, scaled to -1 and 1, with a level at zero.

Reference:
    Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023, appendix E.
"""

_FP4_POSITIVE = (0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0)
FP4 = (*(-level for level in reversed(_FP4_POSITIVE)), 0.0, *_FP4_POSITIVE)
"""A sign, two bits of exponent and one of mantissa, over the largest, 12; the sixteenth pattern is minus zero.

Reference:
    Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023 (the type `fp4` beside `nf4`).
"""


def dynamic_levels(decades: int = 7) -> tuple[float, ...]:
    """Levels of the signed dynamic type: decades of which each has twice as many levels as the one below it.

    Decade i, counted from the smallest, is cut into 2^i equal parts, whose middles are levels; zero and 1 are levels
    too, minus 1 is not.

    Args:
        decades: Decades below 1; 7 makes the 256 levels of 8 bits.

    Reference:
        Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022, section 1.3.
    """
    positive = [
        10.0 ** (i + 1 - decades) * (0.1 + 0.9 * (part + 0.5) / 2**i) for i in range(decades) for part in range(2**i)
    ]
    return (*(-level for level in reversed(positive)), 0.0, *positive, 1.0)


DYNAMIC = dynamic_levels()


def nearest(
    values: Float[Tensor, "groups entries"], levels: tuple[float, ...], scale: Float[Tensor, "groups 1"]
) -> Float[Tensor, "groups entries"]:
    """The level times the scale that is nearest to each value; zeros where the scale is 0."""
    table = torch.tensor(levels, dtype=values.dtype, device=values.device)
    middles = (table[1:] + table[:-1]) / 2
    shares = values / torch.where(scale > 0, scale, 1.0)
    return table[torch.bucketize(shares, middles)] * scale


def bin_ends(
    y: Float[Tensor, "*shape"], scale: Float[Tensor, "*#shape"] | float, levels: tuple[float, ...]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The ends of the interval that is rounded to each received value, in its units.

    The interval ends half-way to the next levels, at the lowest and highest level at minus and plus the scale. Both
    ends are 0 where the scale is 0.

    Args:
        y: Received values, each a level times the scale.
        scale: Largest magnitude of the block, at least 0; of y's shape or broadcast to it.
        levels: The table, ascending from -1 at the lowest to 1.
    """
    table = torch.tensor(levels, dtype=y.dtype, device=y.device)
    ends = torch.cat([-table.new_ones(1), (table[1:] + table[:-1]) / 2, table.new_ones(1)])
    whole = torch.as_tensor(scale, dtype=y.dtype, device=y.device)
    # By the nearest level and not by the exact value: what was received was rounded to its own type.
    level = torch.bucketize((y / torch.where(whole > 0, whole, 1.0)).contiguous(), ends[1:-1])
    return ends[level] * whole, ends[level + 1] * whole


def table_penalty(
    x: Float[Tensor, "*shape"],
    y: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*shape"] | float,
    *,
    levels: tuple[float, ...],
) -> Float[Tensor, "*shape"]:
    """Squared distance of x from the interval of `bin_ends`, in widths of the interval, or of an average one where it
    is narrower; zero where no scale is known.
    """
    whole = torch.as_tensor(scale, dtype=x.dtype, device=x.device)
    known = whole > 0
    whole = torch.where(known, whole, 1.0)
    low, high = bin_ends(y.to(x.dtype) / whole, 1.0, levels)
    beyond = (low - x / whole).clamp_min(0) + (x / whole - high).clamp_min(0)
    width = (high - low).clamp_min(2 / len(levels))  # narrow ones near zero must not outweigh the rest
    return known * (beyond / width).square()
