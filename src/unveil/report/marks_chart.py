"""A chart of marks: a line for each name, and in it a mark for each series, further right where more came back.

No line joins the marks, because neither lines nor series need have an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from unveil.report import formatting
from unveil.report.charts import (
    BOTTOM,
    CHARACTER,
    LINE,
    MARKERS,
    RIGHT,
    TOP,
    WIDTH,
    label_text,
    series_class,
    spec_lines,
    svg,
)
from unveil.report.rows import Row
from unveil.report.svg_layout import Box, Scale

BESIDE = 9
"""Pixels between the marks of two series in a line: bars of their intervals do not cover one another."""

OUTLINES = tuple(MARKERS.values())


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One mark.

    Args:
        line: Name of the line that it stands in.
        series: Name of its series.
        row: The row whose PSNR it shows.
    """

    line: str
    series: str
    row: Row


def legend(series: Sequence[str]) -> list[tuple[str, str, str]]:
    """CSS classes and outline of each series' mark, and its name."""
    return [(series_class(place), _outline(place), name) for place, name in enumerate(series)]


def _outline(place: int) -> str:
    """The outline of a series' mark: colours alone would not tell them apart."""
    return OUTLINES[place % len(OUTLINES)]


def marks_chart(title: str, marks: Sequence[Mark]) -> Markup:
    """Draw the mean PSNR in dB with its interval, to the right.

    Args:
        title: What the chart shows.
        marks: The marks; lines and series stand in the order in which they first appear.
    """
    rows = [mark.row for mark in marks]
    names = list(dict.fromkeys(mark.line for mark in marks))
    series = list(dict.fromkeys(mark.series for mark in marks))
    labels = [spec_lines(name) for name in names]
    left = max(len(line) for lines in labels for line in lines) * CHARACTER + 20
    sizes = [max(len(lines) * LINE, len(series) * BESIDE) + 10 for lines in labels]
    bottom = TOP + sum(sizes)
    means = [row.scores["psnr"].mean for row in rows]
    blinds = [row.scores["psnr"].blind for row in rows if row.scores["psnr"].blind is not None]
    low, high = min([*(mean.low for mean in means), *blinds]), max(mean.high for mean in means)
    pad = max(1.0, 0.08 * (high - low))
    x = Scale(low - pad, high + pad, left, WIDTH - RIGHT)
    parts = [_frame(x, bottom)]
    if blinds:
        at = x(sum(blinds) / len(blinds))
        parts.append(
            f'<g class="floor"><title>blind guess</title>'
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>'
            f'<text x="{at + 4:.1f}" y="{TOP - 4}">blind guess</text></g>'
        )
    top = float(TOP)
    for name, lines, size in zip(names, labels, sizes, strict=True):
        middle = top + size / 2
        half = len(lines) * LINE / 2
        parts.append(f'<g class="grid"><line x1="0" x2="{x.end:.1f}" y1="{top + size:.1f}" y2="{top + size:.1f}"/></g>')
        parts.append(label_text(lines, Box(2, middle - half, left, middle + half)))
        for place, own in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * BESIDE
            parts += [
                _point(mark, place, x, middle + shift) for mark in marks if (mark.line, mark.series) == (name, own)
            ]
        top += size
    return Markup(svg(title, round(bottom + BOTTOM), parts))


def _point(mark: Mark, place: int, x: Scale, height: float) -> str:
    """A mark with a bar for its interval and a tip with its numbers."""
    mean = mark.row.scores["psnr"].mean
    at = f"translate({x(mean.mean):.1f} {height:.1f}) scale(.75)"
    tip = f"{mark.line}, {mark.series}: {formatting.decibels(mean.mean)} {formatting.bounds(mean, 1)}"
    return (
        f'<g class="point {series_class(place)}"><title>{escape(tip)}</title>'
        f'<path class="bar" d="M{x(mean.low):.1f} {height:.1f}H{x(mean.high):.1f}"/>'
        f'<path class="marker" transform="{at}" d="{_outline(place)}"/></g>'
    )


def _frame(x: Scale, bottom: float) -> str:
    """Grid lines and decibels below them."""
    grid = "".join(f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{bottom:.1f}"/>' for t in x.ticks())
    below = "".join(f'<text class="middle" x="{x(t):.1f}" y="{bottom + 18:.1f}">{t:g}</text>' for t in x.ticks())
    return (
        f'<g class="grid">{grid}</g><g class="ticks">{below}</g>'
        f'<text class="name middle" x="{(x.start + x.end) / 2:.1f}" y="{bottom + 40:.1f}">'
        "PSNR, dB (further right: more came back)</text>"
    )
