"""The chart of leakage against bits on the wire, as SVG text for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

from markupsafe import Markup

from unveil.report import formatting
from unveil.report.charts import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    LINE,
    MARKERS,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    led_label,
    spec_lines,
    svg,
)
from unveil.report.rows import Row
from unveil.report.svg_layout import Box, Scale, place_labels

MOST_NAMES = 12
"""Most obfuscations that the chart names beside their markers; of more it has the numbers."""

MOST_NUMBERS = 100
"""Most obfuscations that have numbers; of more, which no reader could tell apart, the chart has the markers alone."""


@dataclass(frozen=True, kw_only=True)
class LeakageChart:
    """Leakage against bits on the wire.

    Args:
        svg: The chart, an SVG element.
        key: The obfuscation that each number in the chart stands for, from 1; empty where the chart has no numbers.
        labelled: Whether markers have names or numbers.
    """

    svg: Markup
    key: Sequence[str] = ()
    labelled: bool = True


def leakage_chart(rows: Sequence[Row]) -> LeakageChart | None:
    """Mean PSNR in dB with its interval against bits on the wire: a marker for each row, a line for the blind guess.

    Markers have the names of the obfuscations beside them, or numbers where the names would cover one another. Each
    marker says its obfuscation when a pointer rests on it.

    Args:
        rows: The rows of one section.

    Returns:
        The chart; None if no row has a PSNR and a size.
    """
    rows = [row for row in rows if "psnr" in row.scores and row.wire_bits > 0]
    if not rows:
        return None
    means = [row.scores["psnr"].mean for row in rows]
    blinds = [row.scores["psnr"].blind for row in rows if row.scores["psnr"].blind is not None]
    blind = sum(blinds) / len(blinds) if blinds else None
    lowest = min([interval.low for interval in means] + ([] if blind is None else [blind]))
    highest = max([interval.high for interval in means] + ([] if blind is None else [blind]))
    pad = max(1.0, 0.1 * (highest - lowest))
    sizes = [row.wire_bits for row in rows]
    x = Scale(min(sizes) / 1.8, max(sizes) * 1.8, LEFT, WIDTH - RIGHT, log=True)
    y = Scale(max(0.0, lowest - pad) if lowest >= 0 else lowest - pad, highest + pad, HEIGHT - BOTTOM, TOP)
    points = [(x(row.wire_bits), y(mean.mean)) for row, mean in zip(rows, means, strict=True)]
    bars = [(y(mean.high), y(mean.low)) for mean in means]
    obstacles = [
        Box(px - 8, min(top, py - 8), px + 8, max(low, py + 8))
        for (px, py), (top, low) in zip(points, bars, strict=True)
    ]
    parts = [
        axes(x, y, "size of the update on the wire (log scale)", "PSNR, dB (higher: more came back)", formatting.bits)
    ]
    if blind is not None:
        line, label = _blind_line(blind, x, y, obstacles)
        parts.append(line)
        obstacles.append(label)
    frame = Box(LEFT + 2, TOP, WIDTH - 2, HEIGHT - BOTTOM - 2)
    labels, boxes, key = _labels(rows, points, frame, obstacles)
    for row, mean, point, bar in zip(rows, means, points, bars, strict=True):
        tip = (
            f"{row.obfuscation}: {formatting.decibels(mean.mean)} {formatting.bounds(mean, 1)}, "
            f"{formatting.bits(row.wire_bits)} ({formatting.ratio(row.compression)} smaller)"
        )
        parts.append(_mark(row.family, point, bar, tip))
    parts += [led_label(lines, box, point) for lines, box, point in zip(labels, boxes, points, strict=False)]
    return LeakageChart(
        svg=Markup(svg("Leakage against bits on the wire", HEIGHT, parts)), key=key, labelled=bool(labels)
    )


def _labels(
    rows: Sequence[Row], points: Sequence[tuple[float, float]], frame: Box, obstacles: Sequence[Box]
) -> tuple[list[list[str]], list[Box], list[str]]:
    """The lines of each marker's label with their boxes, and the obfuscation that each stands for if they are numbers.

    There are no labels where they would be too many.
    """
    if len(rows) <= MOST_NAMES:
        names = [spec_lines(row.obfuscation) for row in rows]
        boxes = _placed(names, points, frame, obstacles)
        if not _is_crowded(boxes, frame):
            return names, boxes, []
    if len(rows) > MOST_NUMBERS:
        return [], [], []
    numbers = [[str(number)] for number, _ in enumerate(rows, start=1)]
    return numbers, _placed(numbers, points, frame, obstacles), [row.obfuscation for row in rows]


def _placed(
    labels: Sequence[Sequence[str]], points: Sequence[tuple[float, float]], frame: Box, obstacles: Sequence[Box]
) -> list[Box]:
    """The boxes of labels of one or more lines each."""
    sizes = [(max(map(len, lines)) * CHARACTER, len(lines) * LINE) for lines in labels]
    return place_labels(points, sizes, frame, obstacles)


def _is_crowded(boxes: Sequence[Box], frame: Box) -> bool:
    """Whether labels cover one another or leave the frame."""
    covered = any(one.overlap(other) > 1 for one, other in combinations(boxes, 2))
    return covered or any(box.outside(frame) > 1 for box in boxes)


def _mark(family: str, point: tuple[float, float], bar: tuple[float, float], tip: str) -> str:
    (px, py), (top, low) = point, bar
    return (
        f'<g class="point family-{family}"><title>{escape(tip)}</title>'
        f'<path class="bar" d="M{px:.1f} {top:.1f}V{low:.1f}M{px - 4:.1f} {top:.1f}h8M{px - 4:.1f} {low:.1f}h8"/>'
        f'<path class="marker" transform="translate({px:.1f} {py:.1f})" d="{MARKERS[family]}"/></g>'
    )


def _blind_line(blind: float, x: Scale, y: Scale, obstacles: Sequence[Box]) -> tuple[str, Box]:
    """The blind guess as a line, and the box of its label where it covers least."""
    text, at = f"blind guess {formatting.decibels(blind)}", y(blind)
    width = len(text) * CHARACTER
    boxes = [
        Box(left, top, left + width, top + LINE)
        for left in (x.start + 6, x.end - width - 6, (x.start + x.end - width) / 2)
        for top in (at - LINE - 3, at + 4)
    ]
    box = min(boxes, key=lambda box: sum(box.overlap(other) for other in obstacles))
    line = (
        f'<g class="floor"><title>{text}</title>'
        f'<line x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{box.left:.1f}" y="{box.top + 0.8 * LINE:.1f}">{text}</text></g>'
    )
    return line, box
