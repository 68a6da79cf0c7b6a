"""QSGD with a norm for each bucket: the values of each bucket are multiples of a step of its own."""

from __future__ import annotations

import math

import torch

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.grid import Grid, find_grid
from unveil.inspection.fingerprint.naming import nearest_usual
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.rounding import energy

BUCKETS = (16384, 8192, 4096, 2048, 1024, 1000, 512, 500, 256, 128, 100, 64, 32, 16)
FINEST = 1100  # levels on a side that are tried
SAMPLE = 1 << 18  # entries


def in_buckets(received: Received) -> Finding | None:
    """Find QSGD whose norms are those of buckets, or None."""
    name = received.by_size[0]
    values = received.values[name].flatten()[:SAMPLE]
    for bucket in BUCKETS:
        if len(values) < 3 * bucket:
            continue
        rows = values[: len(values) // bucket * bucket].reshape(-1, bucket)
        busy = torch.nonzero((rows != 0).sum(1) >= 4).flatten()
        chosen = rows[busy[torch.linspace(0, len(busy) - 1, min(len(busy), 16)).long()]] if len(busy) else rows[:0]
        grids: list[Grid | None] = []
        for row in chosen:
            grids.append(find_grid(row, relative=received.relative, absolute=received.absolute[name], most=FINEST))
            if grids.count(None) > 1:
                break
        if grids.count(None) > 1:
            continue
        found = [(row, grid) for row, grid in zip(chosen, grids, strict=True) if grid is not None]
        if len(found) < max(3, 0.9 * len(chosen)):
            continue
        tops = [grid.top for _, grid in found]
        top = max(tops)
        side = f",bucket={bucket}"
        evidence = f"in buckets of {bucket} the values of {name} are multiples of one step each"
        if top == 1 and all(grid.different == 1 for _, grid in found):
            rates = [float((row != 0).sum()) for row, _ in found]
            norm = "" if sum(rates) / len(rates) < 1.1 * math.sqrt(bucket) else ",norm=max"
            return Finding(spec=f"qsgd:levels=2{norm}{side}", confidence=0.9, evidence=evidence)
        if tops.count(top) >= 0.6 * len(tops):
            return Finding(spec=f"qsgd:levels={top + 1},norm=max{side}", confidence=0.97, evidence=evidence)
        sizes = [math.sqrt(energy(row / grid.step)) + 1 for row, grid in found]
        levels = nearest_usual(sorted(sizes)[len(sizes) // 2])
        if levels > FINEST:
            continue
        return Finding(spec=f"qsgd:levels={round(levels)}{side}", confidence=0.95, evidence=evidence)
    return None
