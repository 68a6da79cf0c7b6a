"""The charts of one section, as SVG text for the page.

The page's CSS gives the colours (`.family-quantise`, `.series-0`), so one chart serves light mode, dark mode and print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape

from unveil.report import formatting
from unveil.report.rows import Curve, Row
from unveil.report.svg_layout import Box, Scale, place_labels, spread

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 16, 48
LABEL_SIZE = 11.5
CHARACTER = 0.61 * LABEL_SIZE
LINE = LABEL_SIZE * 1.25
SERIES = 8
"""Number of line colours in the style sheet; further lines repeat them dashed."""

MARKERS = {
    "none": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0z",
    "quantise": "M-5 -5h10v10h-10z",
    "sparsify": "M0 -6.5L6.2 4.8h-12.4z",
    "perturb": "M0 -6.8L6.8 0L0 6.8L-6.8 0z",
    "pipeline": "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "low-rank": "M-6.5 -3h13v6h-13z",
    "other": "M0 6.5L6.2 -4.8h-12.4z",
}
"""SVG outline of each family's marker around (0, 0): families differ without colour too."""

FAMILY_NAMES = {
    "none": "no obfuscation",
    "quantise": "quantisation",
    "sparsify": "sparsification",
    "perturb": "perturbation",
    "pipeline": "pipeline",
    "low-rank": "low rank",
    "other": "other",
}


def leakage_chart(rows: Sequence[Row]) -> str:
    """Mean PSNR in dB with its interval against bits on the wire: a marker for each row, a line for the blind guess.

    Args:
        rows: The rows of one section.

    Returns:
        An SVG element; empty if no row has a PSNR and a size.
    """
    rows = [row for row in rows if "psnr" in row.scores and row.wire_bits > 0]
    if not rows:
        return ""
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
    labels = [spec_lines(row.obfuscation) for row in rows]
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
    boxes = place_labels(
        points,
        [(max(map(len, lines)) * CHARACTER, len(lines) * LINE) for lines in labels],
        Box(LEFT + 2, TOP, WIDTH - 2, HEIGHT - BOTTOM - 2),
        obstacles,
    )
    for row, mean, point, bar, box, lines in zip(rows, means, points, bars, boxes, labels, strict=True):
        tip = (
            f"{row.obfuscation}: {formatting.decibels(mean.mean)} {formatting.bounds(mean, 1)}, "
            f"{formatting.bits(row.wire_bits)} ({formatting.ratio(row.compression)} smaller)"
        )
        parts.append(_mark(row.family, point, bar, tip) + _label(lines, box, point))
    return svg("Leakage against bits on the wire", HEIGHT, parts)


def loss_chart(rows: Sequence[Row]) -> str:
    """The attack's loss after each step, on a logarithmic scale: a line for each run, a label for each obfuscation.

    Values outside (1e-306, 1e306) and NaN leave a gap.

    Args:
        rows: The rows of one section.

    Returns:
        An SVG element; empty if there is no loss to draw.
    """
    rows = [row for row in rows if any(_drawable(v) for _, curve in row.curves for v in curve)]
    values = [v for row in rows for _, curve in row.curves for v in curve if _drawable(v)]
    if not rows:
        return ""
    labels = [spec_lines(row.obfuscation) for row in rows]
    room = min(max(len(line) for lines in labels for line in lines) * CHARACTER + 34, 260)
    height = max(320, TOP + BOTTOM + round(sum(len(lines) for lines in labels) * LINE * 1.2))
    steps = max(max(row.iterations, 1.0) for row in rows)
    x = Scale(0, steps, LEFT, WIDTH - room)
    y = Scale(min(values) / 1.3, max(values) * 1.3, height - BOTTOM, TOP, log=True)
    parts = [axes(x, y, "step", "loss (log scale)", lambda value: f"{value:g}")]
    ends = []
    for index, row in enumerate(rows):
        for number, (seed, curve) in enumerate(row.curves):
            path = _path(curve, max(row.iterations, 1.0), x, y)
            if path:
                parts.append(
                    f'<path class="curve {series_class(index)}{" more" if number else ""}" d="{path}">'
                    f"<title>{escape(row.obfuscation)}, seed {seed}</title></path>"
                )
        last = next(v for _, curve in row.curves for v in reversed(curve) if _drawable(v))
        ends.append((x(min(max(row.iterations, 1.0), steps)), y(last)))
    gap = max(map(len, labels)) * LINE + 3
    heights = spread([end[1] for end in ends], gap, TOP + LINE / 2, height - BOTTOM - LINE / 2)
    for index, ((end_x, end_y), moved, lines) in enumerate(zip(ends, heights, labels, strict=True)):
        left = WIDTH - room + 26
        half = len(lines) * LINE / 2
        parts.append(
            f'<path class="leader {series_class(index)}" d="M{end_x + 3:.1f} {end_y:.1f}L{left - 5:.1f} {moved:.1f}"/>'
            + label_text(lines, Box(left, moved - half, WIDTH, moved + half))
        )
    return svg("Loss of the attack", height, parts)


def legend(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Family, its marker's outline and its name, for the families in these rows."""
    return [
        (family, MARKERS[family], FAMILY_NAMES[family]) for family in MARKERS if any(r.family == family for r in rows)
    ]


def _drawable(value: float) -> bool:
    return 1e-306 < value < 1e306  # beyond, the margin of the axis would overflow a float


def series_class(index: int) -> str:
    """The CSS classes of a line: its colour, and `again` where the colours repeat."""
    return f"series-{index % SERIES}" + (" again" if index >= SERIES else "")


def _path(curve: Curve, iterations: float, x: Scale, y: Scale) -> str:
    """The commands of an SVG path; a value that cannot be drawn breaks the line."""
    commands, pen = [], "M"
    for index, value in enumerate(curve):
        if not _drawable(value):
            pen = "M"
            continue
        at = f"{x(iterations * (index + 1) / len(curve)):.1f} {y(value):.1f}"
        # `h0` draws a lone point as a dot, by the round cap of a line of length 0.
        commands.append(f"{pen}{at}h0" if pen == "M" else f"{pen}{at}")
        pen = "L"
    return "".join(commands)


def spec_lines(label: str) -> list[str]:
    """A SPEC broken after each `+` of a pipeline."""
    parts = re.split(r"\+(?=\s*[a-z])", label)  # not the plus of 1e+06
    return [part + ("+" if index + 1 < len(parts) else "") for index, part in enumerate(parts)]


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


def _label(lines: list[str], box: Box, point: tuple[float, float]) -> str:
    """The label, and a thin line to its point if the label is more than 18 px away."""
    near_x, near_y = min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)
    leader = ""
    if math.dist(point, (near_x, near_y)) > 18:
        leader = f'<path class="leader" d="M{point[0]:.1f} {point[1]:.1f}L{near_x:.1f} {near_y:.1f}"/>'
    return leader + label_text(lines, box)


def label_text(lines: list[str], box: Box) -> str:
    """Lines of text, starting at the top of the box."""
    spans = "".join(
        f'<tspan x="{box.left:.1f}" y="{box.top + LINE * (index + 0.8):.1f}">{escape(line)}</tspan>'
        for index, line in enumerate(lines)
    )
    return f'<text class="label">{spans}</text>'


def axes(x: Scale, y: Scale, across: str, up: str, written: Callable[[float], str], *, beside_at: float = 14) -> str:
    """Grid lines, tick labels and the names of both axes.

    Args:
        x: The horizontal scale.
        y: The vertical scale.
        across: Name of the horizontal axis.
        up: Name of the vertical axis.
        written: Formats a tick of the horizontal axis.
        beside_at: Horizontal position of the name of the vertical axis, in pixels.
    """
    left, right, bottom, top = x.start, x.end, max(y.start, y.end), min(y.start, y.end)
    lines = "".join(
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>' for tick in y.ticks()
    )
    below = "".join(
        f'<text class="middle" x="{x(tick):.1f}" y="{bottom + 18:.1f}">{written(tick)}</text>' for tick in x.ticks()
    )
    beside = "".join(
        f'<text class="end" x="{left - 8:.1f}" y="{y(tick) + 4:.1f}">{tick:g}</text>' for tick in y.ticks()
    )
    middle = (top + bottom) / 2
    return (
        f'<g class="grid">{lines}</g><g class="ticks">{below}{beside}</g>'
        f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'
        f'<text class="name middle" x="{(left + right) / 2:.1f}" y="{bottom + 40:.1f}">{escape(across)}</text>'
        f'<text class="name middle" transform="translate({beside_at:.1f} {middle:.1f}) rotate(-90)">{escape(up)}</text>'
    )


def svg(title: str, height: int, parts: list[str]) -> str:
    """The parts as one SVG element with a title for screen readers; its height is in pixels."""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
