"""Which quantiser has evenly spaced levels like these: what their distance is a share of, and how it rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.grid import Grid, find_grid
from unveil.inspection.fingerprint.naming import USUAL, is_one_step, is_usual, nearest_usual, qsgd, uniform
from unveil.inspection.fingerprint.one_level import one_level
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.rounding import UNKNOWN, energy, rounding_of

ENOUGH = 40  # values that are not zero before a tensor without levels counts against them
MOST = 0.8  # of the tensors that must have levels
ALIKE = 5e-4  # relative difference up to which steps are one


def levels_of(received: Received) -> dict[str, Grid]:
    """The grid of each tensor that has one; empty where too few have."""
    judged = [n for n in received.by_size if received.counts[n] >= ENOUGH] or received.by_size
    found, missing = {}, 0
    for name in reversed(received.by_size):
        grid = find_grid(received.values[name].flatten(), relative=received.relative, absolute=received.absolute[name])
        if grid is not None:
            found[name] = grid
        elif name in judged:
            missing += 1
            if missing > (1 - MOST) * len(judged):
                return {}
    return found if judged[0] in found else {}


def quantised(received: Received, grids: Mapping[str, Grid], *, sparse: bool) -> Finding:
    """Name the quantiser whose levels were found, tensor by tensor.

    Args:
        received: The received values.
        grids: Levels by tensor.
        sparse: A sparsifier was found in front of it.
    """
    order = sorted(grids, key=lambda n: -received.sizes[n])
    steps = [grids[n].step for n in order]
    if all(grids[n].different == 1 for n in order):
        return one_level(received, grids, order, sparse=sparse)
    offset = [n for n in order if grids[n].origin and _is_off(grids[n])]
    if 2 * len(offset) > len([n for n in order if received.sizes[n] > 8]):
        same = len(steps) > 2 and max(steps) / min(steps) - 1 < ALIKE
        top = max(grids[n].top for n in order)
        return uniform(round(math.log2(top + 1)), ",range=minmax" + (",scope=update" if same else ""), 0.99)
    top = max(grids[n].top for n in order)
    rounding = UNKNOWN if sparse else rounding_of(received, grids)
    bits = math.log2(top + 1) + 1
    whole = abs(bits - round(bits)) < 1e-9
    if is_one_step(steps):
        step = min(steps)
        if rounding.is_nearest and whole:
            return uniform(round(bits), ",scope=update", rounding.confidence, rounding)
        sizes = sum(energy(received.values[n] / step) for n in order)
        from_norm = math.sqrt(sizes) + 1
        if is_usual(from_norm) and top + 1 not in USUAL:
            return qsgd(round(nearest_usual(from_norm)), "", rounding, ",scope=update")
        return qsgd(top + 1, ",norm=max", rounding, ",scope=update")
    full = [n for n in order if grids[n].top == top]
    counted = [n for n in order if received.counts[n] >= 4]
    if len(full) >= 0.6 * len(counted):
        if rounding.is_nearest and whole:
            return uniform(round(bits), "", rounding.confidence, rounding)
        return qsgd(top + 1, ",norm=max", rounding, "")
    return qsgd(_levels_of_norm(received, grids, order), "", rounding, "")


def _is_off(grid: Grid) -> bool:
    place = grid.origin / grid.step
    return abs(place - round(place)) > 1e-3


def _levels_of_norm(received: Received, grids: Mapping[str, Grid], order: Sequence[str]) -> int:
    """QSGD's levels where the step is a share of the norm, from tensors that are small beside the levels squared."""
    sizes, weights = [], []
    for name in order:
        steps = received.values[name] / grids[name].step
        total = float(steps.square().sum())
        own = energy(steps)
        if own > 0:
            sizes.append(math.sqrt(own))
            weights.append((own / total) ** 8)
    ranked = sorted(zip(weights, sizes, strict=True), reverse=True)[:5]
    mean = sum(w * s for w, s in ranked) / max(sum(w for w, _ in ranked), 1e-12)
    return round(nearest_usual(mean + 1))
