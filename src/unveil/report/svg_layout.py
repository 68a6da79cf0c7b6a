"""The layout of charts: scales, ticks, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels.

    Args:
        low, high: Values at the two ends; both above 0 on a logarithmic scale.
        start, end: Pixels of the two ends.
        log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = self._ends
        value = math.log10(value) if self.log else value
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The values at the two ends; their logarithms on a logarithmic scale."""
        return (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)

    def ticks(self) -> list[float]:
        """About five round values between the ends."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def _linear_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if high < 200 * low else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in fine]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / 8)] if inside else [low]


@dataclass(frozen=True)
class Box:
    """A rectangle, its edges in pixels; `top` is less than `bottom`."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that both boxes cover, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Box) -> float:
        """Area of this box outside the frame, in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top) - self.overlap(frame)


DISTANCES = (10.0, 20.0, 32.0, 46.0, 62.0, 80.0, 104.0, 132.0)
DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    obstacles: Sequence[Box],
) -> list[Box]:
    """A box for the label of each point: the nearest of several that covers least, one label after the other.

    Args:
        points: Horizontal and vertical pixel of each point.
        sizes: Width and height of each label, in pixels.
        frame: The area for labels.
        obstacles: Boxes that labels should not cover, such as markers and error bars.
    """
    taken = list(obstacles)
    placed = []
    for point, size in zip(points, sizes, strict=True):
        candidates = [_beside(point, size, d, direction) for d in DISTANCES for direction in DIRECTIONS]
        covered = _covered(candidates, taken)
        costs = [covered[i] + 10 * box.outside(frame) + 0.01 * i for i, box in enumerate(candidates)]
        best = candidates[costs.index(min(costs))]
        taken.append(best)
        placed.append(best)
    return placed


def _covered(boxes: Sequence[Box], others: Sequence[Box]) -> list[float]:
    """For each box the sum of its `overlap` with all others, computed at once: a chart has thousands of pairs."""
    if not others:
        return [0.0] * len(boxes)
    left, top, right, bottom = np.array([_edges(box) for box in boxes]).T[:, :, None]
    left_, top_, right_, bottom_ = np.array([_edges(other) for other in others]).T
    width = np.minimum(right, right_) - np.maximum(left, left_)
    height = np.minimum(bottom, bottom_) - np.maximum(top, top_)
    found: list[float] = (width.clip(0) * height.clip(0)).sum(1).tolist()
    return found


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def _beside(point: tuple[float, float], size: tuple[float, float], distance: float, direction: tuple[int, int]) -> Box:
    (x, y), (width, height), (across, down) = point, size, direction
    centre_x = x + across * (distance + width / 2)
    reach = distance + height / 2 if across == 0 else distance
    centre_y = y + down * reach
    return Box(centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2)


def spread(heights: Sequence[float], sizes: float | Sequence[float], low: float, high: float) -> list[float]:
    """Move labels up and down until none covers another; they keep their order, and stay inside if there is room.

    Args:
        heights: Middle of each label, in pixels.
        sizes: Height of each label with the gap to the next, in pixels; one number if all are the same.
        low: The upper end of the room, in pixels.
        high: The lower end.

    Returns:
        The new middle of each label.
    """
    size = [sizes] * len(heights) if isinstance(sizes, int | float) else list(sizes)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    edge = low
    for index in order:
        moved[index] = max(heights[index], edge + size[index] / 2)
        edge = moved[index] + size[index] / 2
    edge = high
    for index in reversed(order):
        moved[index] = min(moved[index], edge - size[index] / 2)
        edge = moved[index] - size[index] / 2
    return moved
