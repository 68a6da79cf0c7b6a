"""What the charts of a report share: markers, axes and labels, as SVG text for the page.

The page's CSS gives the colours (`.family-quantise`, `.series-0`), so one chart serves light mode, dark mode and print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape

from unveil.report.rows import Row
from unveil.report.svg_layout import Box, Scale

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 16, 48
LABEL_SIZE = 11.5
CHARACTER = 0.61 * LABEL_SIZE
LINE = LABEL_SIZE * 1.25
LONGEST_LINE = 36
"""Most characters of a line of a label: 253 px, a third of a chart."""

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


def legend(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Family, its marker's outline and its name, for the families in these rows."""
    return [
        (family, MARKERS[family], FAMILY_NAMES[family]) for family in MARKERS if any(r.family == family for r in rows)
    ]


def series_class(index: int) -> str:
    """The CSS classes of a line: its colour, and `again` where the colours repeat."""
    return f"series-{index % SERIES}" + (" again" if index >= SERIES else "")


def spec_lines(label: str, most: int = LONGEST_LINE) -> list[str]:
    """A SPEC broken after each `+` of a pipeline, and where a line would be too long, after punctuation or anywhere.

    Args:
        label: The SPEC.
        most: Most characters of a line.
    """
    parts = re.split(r"\+(?=\s*[a-z])", label)  # not the plus of 1e+06
    stages = [part + ("+" if index + 1 < len(parts) else "") for index, part in enumerate(parts)]
    return [line for stage in stages for line in _broken(stage, most)]


def _broken(text: str, most: int) -> list[str]:
    """The text in lines of at most `most` characters."""
    lines = []
    while len(text) > most:
        at = max((text.rfind(mark, 0, most) for mark in ":,.="), default=-1) + 1
        at = at if at > most // 3 else most
        lines.append(text[:at])
        text = text[at:]
    return [*lines, text]


def label_text(lines: list[str], box: Box) -> str:
    """Lines of text, starting at the top of the box."""
    spans = "".join(
        f'<tspan x="{box.left:.1f}" y="{box.top + LINE * (index + 0.8):.1f}">{escape(line)}</tspan>'
        for index, line in enumerate(lines)
    )
    return f'<text class="label">{spans}</text>'


def led_label(lines: list[str], box: Box, point: tuple[float, float], radius: float = 8.0) -> str:
    """The label, and a thin line to the edge of its point's marker if the label is more than 10 px from it.

    Args:
        lines: Lines of text.
        box: Where they stand.
        point: Horizontal and vertical pixel of the point.
        radius: Radius of its marker, in pixels.
    """
    near = (min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom))
    away = math.dist(point, near)
    if away <= radius + 10:
        return label_text(lines, box)
    edge = [at + (to - at) * radius / away for at, to in zip(point, near, strict=True)]
    leader = f'<path class="leader" d="M{edge[0]:.1f} {edge[1]:.1f}L{near[0]:.1f} {near[1]:.1f}"/>'
    return leader + label_text(lines, box)


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
