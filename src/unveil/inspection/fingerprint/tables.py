"""Quantisers that ship as tables of levels: each block's values are the table's times its largest magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import Received
from unveil.obfuscations.tables import DYNAMIC, FP4, NF4

TABLES: Mapping[str, tuple[float, ...]] = {"nf4": NF4, "fp4": FP4, "blockwise8": DYNAMIC}
BLOCKS = tuple(2**power for power in range(14, 3, -1))
SAMPLE = 1 << 17  # entries
LOOKED_AT = 10  # blocks
SURE = 40.0  # bits of evidence
SMALLEST = 0.01  # of the largest magnitude; the smallest level of FP4 is 0.0052
SOME = 0.3  # of the blocks
MOST_FIT = 0.9  # of the blocks


def from_table(received: Received) -> Finding | None:
    """Find a table quantiser and its block, or None; behind a sparsifier the blocks are those of what was sent."""
    name = received.by_size[0]
    values = received.values[name].flatten()
    sent = values[values != 0][:SAMPLE]
    values = values[:SAMPLE]
    for row in (values, sent) if received.counts[name] < received.sizes[name] else (values,):
        for table, levels in TABLES.items():
            for block in BLOCKS:
                if table == "fp4" and not _is_uneven(row, block):
                    continue  # its other levels are multiples of one step, as a quantiser with few levels has them
                bits = _bits(row, torch.tensor(levels, dtype=torch.float64), block, received.relative)
                if bits > SURE:
                    return Finding(
                        spec=f"{table}:block={block}",
                        confidence=0.99,
                        evidence=f"in blocks of {block} every value of {name} is one of the {len(levels)} levels of "
                        f"{table} times the block's largest magnitude ({bits:.0f} bits of evidence)",
                    )
    return None


def _is_uneven(row: Float[Tensor, " entries"], block: int) -> bool:
    """Whether blocks hold levels of FP4 that are no multiples of one step: the smallest, or quarters beside thirds."""
    blocks = row[: len(row) // block * block].reshape(-1, block) if len(row) >= block else row[None]
    shares = blocks.abs() / blocks.abs().amax(1, keepdim=True).clamp_min(1e-300)
    smallest = (shares > 0) & (shares < SMALLEST)
    quarter, third = (shares - 1 / 4).abs() < SMALLEST, (shares - 1 / 3).abs() < SMALLEST
    uneven = smallest.any(1) | (quarter.any(1) & third.any(1))
    return bool(uneven.double().sum() >= SOME * (shares > 0).any(1).double().sum())


def _bits(row: Float[Tensor, " entries"], levels: Float[Tensor, " levels"], block: int, relative: float) -> float:
    """Bits of evidence that blocks of this size hold levels of the table; 0 where some block does not."""
    blocks = row[: len(row) // block * block].reshape(-1, block) if len(row) >= block else row[None]
    busy = torch.nonzero((blocks != 0).sum(1) >= min(6, block)).flatten()
    if not len(busy):
        return 0.0
    chosen = blocks[busy[torch.linspace(0, len(busy) - 1, min(LOOKED_AT, len(busy))).long()]]
    if len(blocks) > 1 and len(chosen) < 3:
        return 0.0
    total, fitting = 0.0, 0
    for values in chosen:
        largest = values[values.abs().argmax()]
        scale = (largest / (levels[-1] if largest > 0 else levels[0])).abs()
        shares = values[values != 0] / scale
        near = levels[torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2)]
        off = (shares - near).abs()
        room = (3 * relative * near.abs()).clamp_min(4e-7 * near.abs())
        if bool((off <= room + 1e-12).all()):
            inner = shares.abs() < 0.98 * float(near.abs().max())
            shares, near, room = shares[inner], near[inner], room[inner]
            gaps = torch.diff(levels)
            place = torch.bucketize(shares.abs().clamp(max=1), levels[1:-1])
            total += float((gaps[place.clamp(max=len(gaps) - 1)] / (2 * room + 1e-12)).log2().clamp_min(0).sum())
            total -= math.log2(float(gaps.max() / gaps.min()))
            fitting += 1
        elif fitting < MOST_FIT * len(chosen) - 1:
            return 0.0
    return total if fitting >= MOST_FIT * len(chosen) else 0.0
