"""How much comes back under each threat model, as one SVG chart for each client.

Threat models have no order, so no line joins them: each obfuscation has a row, and each threat model a mark in it.
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
"""Pixels between the marks of two threat models in a row: bars of their intervals do not cover one another."""

OUTLINES = tuple(MARKERS.values())


@dataclass(frozen=True, kw_only=True)
class ThreatModelChart:
    """One client, training, attack and enhancer under several threat models.

    Args:
        client, training, attack, enhancer: As in `Row`.
        legend: CSS classes and outline of each threat model's mark, and its name.
        svg: The chart.
    """

    client: str
    training: str
    attack: str
    enhancer: str
    legend: Sequence[tuple[str, str, str]]
    svg: Markup


def threat_model_charts(rows: Sequence[Row]) -> list[ThreatModelChart]:
    """One chart for each client, training, attack and enhancer that was tried under at least two threat models."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores:
            groups.setdefault((row.client, row.training, row.attack, row.enhancer), []).append(row)
    charts = []
    for (client, training, attack, enhancer), members in groups.items():
        models = list(dict.fromkeys(row.threat_model for row in members))
        if len(models) > 1:
            charts.append(
                ThreatModelChart(
                    client=client,
                    training=training,
                    attack=attack,
                    enhancer=enhancer,
                    legend=[(series_class(place), _outline(place), model) for place, model in enumerate(models)],
                    svg=Markup(_chart(members, models)),
                )
            )
    return charts


def _outline(place: int) -> str:
    """The outline of a threat model's mark: colours alone would not tell them apart."""
    return OUTLINES[place % len(OUTLINES)]


def _chart(rows: Sequence[Row], models: Sequence[str]) -> str:
    """Mean PSNR in dB with its interval, to the right: a row for each obfuscation and a mark for each threat model."""
    names = list(dict.fromkeys(row.obfuscation for row in rows))
    labels = [spec_lines(name) for name in names]
    left = max(len(line) for lines in labels for line in lines) * CHARACTER + 20
    sizes = [max(len(lines) * LINE, len(models) * BESIDE) + 10 for lines in labels]
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
        for place, model in enumerate(models):
            shift = (place - (len(models) - 1) / 2) * BESIDE
            parts += [
                _point(row, place, x, middle + shift)
                for row in rows
                if (row.obfuscation, row.threat_model) == (name, model)
            ]
        top += size
    return svg("What comes back under each threat model", round(bottom + BOTTOM), parts)


def _point(row: Row, place: int, x: Scale, height: float) -> str:
    """A mark with a bar for its interval and a tip with its numbers."""
    mean = row.scores["psnr"].mean
    at = f"translate({x(mean.mean):.1f} {height:.1f}) scale(.75)"
    tip = f"{row.obfuscation}, {row.threat_model}: {formatting.decibels(mean.mean)} {formatting.bounds(mean, 1)}"
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
