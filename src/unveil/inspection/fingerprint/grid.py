"""Evenly spaced levels: the distance of a quantiser's levels, worked out from the values alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 70_000  # levels that are tried; uniform quantisation to 16 bits has 32,767 on a side
SAMPLE = 3000  # different values that are tried first
PROBES = 10
CHECKED = 200_000  # values that are compared with a grid in the end
SURE = 14.0  # bits of evidence beyond those of the choice of a grid
QUANTILES = (1.0, 0.7, 0.4, 0.2, 0.1, 0.05, 0.0)  # of the magnitudes, each tried as a level
BLUR = 0.1  # of a step: levels whose rounding is larger cannot be told from their neighbours


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Levels at ``origin + k step`` for whole k.

    Args:
        step: Their distance, more than 0.
        origin: The level that k counts from: 0, or the smallest value.
        top: The largest k that occurs, counted from the origin to both sides.
        different: How many levels occur, of different magnitude where the origin is 0.
    """

    step: float
    origin: float
    top: int
    different: int


def find_grid(
    values: Float[Tensor, " entries"],
    *,
    relative: float,
    absolute: Float[Tensor, " ..."] | float = 0.0,
    most: int = MOST,
) -> Grid | None:
    """The coarsest grid that holds all values, or None if there is none that chance would not give.

    The largest magnitude is a level, so its distance to the origin is a whole number K of steps. Every K is tried;
    values of floating point that were not rounded fit one with a chance that falls with each of them.

    Args:
        values: Values of one group, float64; zeros fit every grid.
        relative: How far a value may be off, relative to it.
        absolute: The same in units of the values.
        most: Levels on a side that are tried.
    """
    moved = float(torch.as_tensor(absolute).max())
    found = _from(values[values != 0].abs(), relative, moved, 0.0, most)
    low = float(values.min()) if len(values) else 0.0
    if int((values != 0).sum()) > 8 and low < 0 and (found is None or found.top > 3):
        offset = values - low
        edge = relative * float(values.abs().max())
        other = _from(offset[offset != 0], relative, max(moved, edge), low, most)
        if other is not None and (found is None or other.top < 0.9 * found.top):
            return other
    return found


def _from(sizes: Float[Tensor, " entries"], relative: float, moved: float, origin: float, most: int) -> Grid | None:
    """The coarsest grid from the origin on, given the distances of all values from it."""
    if not len(sizes):
        return None
    largest = float(sizes.max())
    stride = max(1, len(sizes) // SAMPLE)
    different = torch.unique(torch.cat([sizes[::stride], sizes.max()[None]]))
    repeats = len(sizes[::stride]) - len(different)
    if moved or relative > 1e-6:
        different = _merged(different, relative, moved)
    room = 2.5 * relative
    if len(different) == 1:
        enough = len(sizes) >= 3 and largest > 12 * moved
        return Grid(step=largest, origin=origin, top=1, different=1) if enough else None
    # Behind half precision levels far from zero run into one another: those nearer to it are looked at.
    references = [largest] if room * MOST < 1 else [float(different[int(q * (len(different) - 1))]) for q in QUANTILES]
    for reference in references:
        step = _step(different, reference, room, moved, repeats if relative < 1e-6 else 0, most)
        if step is not None and _fits(sizes, step, room, moved):
            clear = different[different < BLUR / room * step]
            levels = (clear / step).round().clamp_min(1)
            step = float((clear * levels).sum() / levels.square().sum()) if moved else float((clear / levels).mean())
            return Grid(step=step, origin=origin, top=max(1, round(largest / step)), different=len(different))
    return None


def _step(
    different: Float[Tensor, " some"], reference: float, room: float, moved: float, repeats: int, most: int
) -> float | None:
    """The largest step of which the reference and all different values below the blur are multiples."""
    most = min(most, int(BLUR / max(room, 1e-12)), int(BLUR * reference / moved) if moved else most)
    if most < 1:
        return None
    below = different[different < reference] if len(different) > PROBES else different
    if not len(below):
        return None
    probes = below[torch.linspace(0, len(below) - 1, min(PROBES, len(below))).long()]
    counts = torch.arange(1, most + 1, dtype=torch.float64)
    for part in torch.split(probes, 2):  # most counts are ruled out by the first two
        shares = counts[:, None] / reference
        off, allowed = _off(part[None] * shares, room, moved * shares)
        counts = counts[(off <= allowed).all(1)]
    for count in counts.tolist():
        step: float = reference / count
        clear = different[different < BLUR / room * step]
        off, allowed = _off(clear / step, room, moved / step)
        if not bool((off <= allowed).all()):
            continue
        bits = float(-(2 * allowed.clamp(max=0.5)).log2().sum()) + min(repeats, 50) - 2 * math.log2(count + 1)
        if bits > SURE:
            return step
    return None


def _off(
    levels: Float[Tensor, "*shape"], room: float, moved: Float[Tensor, "*#shape"] | float
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """How far values are from whole numbers of steps, and how far rounding lets them be."""
    whole = levels.round().clamp_min(1)
    return (levels - whole).abs(), (whole * room + 2.5 * moved + 1e-7).clamp(max=0.5)


def _fits(sizes: Float[Tensor, " entries"], step: float, room: float, moved: float) -> bool:
    """Whether the values lie on the grid, as far as levels can be told apart."""
    some = sizes[:: max(1, len(sizes) // CHECKED)]
    clear = some[some < BLUR / room * step]
    off, allowed = _off(clear / step, room, moved / step)
    return bool((off <= 1.5 * allowed).all())


def _merged(different: Float[Tensor, " some"], relative: float, moved: float) -> Float[Tensor, " fewer"]:
    """One value for those that rounding alone may have made different, ascending."""
    near = torch.diff(different) <= 4 * moved + 2 * relative * different[1:] * (moved > 0)
    groups = torch.cat([torch.zeros(1, dtype=torch.long), (~near).long().cumsum(0)])
    total = torch.zeros(int(groups[-1]) + 1, dtype=torch.float64).index_add_(0, groups, different)
    return total / torch.bincount(groups)
