"""How much comes back under each threat model, as one SVG chart for each client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from unveil.report import formatting
from unveil.report.charts import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    LINE,
    MARKERS,
    TOP,
    WIDTH,
    label_text,
    series_class,
    spec_lines,
    svg,
)
from unveil.report.rows import Row
from unveil.report.svg_layout import Box, Scale, spread


@dataclass(frozen=True)
class ThreatModelChart:
    """One client, training, attack and enhancer under several threat models.

    Args:
        client, training, attack, enhancer: As in `Row`.
        svg: The chart.
    """

    client: str
    training: str
    attack: str
    enhancer: str
    svg: Markup


def threat_model_charts(rows: Sequence[Row]) -> list[ThreatModelChart]:
    """One chart for each client, training, attack and enhancer that was tried under at least two threat models."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores:
            groups.setdefault((row.client, row.training, row.attack, row.enhancer), []).append(row)
    return [
        ThreatModelChart(*key, Markup(_chart(members)))
        for key, members in groups.items()
        if len({row.threat_model for row in members}) > 1
    ]


def _chart(rows: Sequence[Row]) -> str:
    """Mean PSNR in dB with its interval: a column for each threat model and a line for each obfuscation."""
    models = list(dict.fromkeys(row.threat_model for row in rows))
    names = list(dict.fromkeys(row.obfuscation for row in rows))
    labels = [spec_lines(name) for name in names]
    means = [row.scores["psnr"].mean for row in rows]
    blinds = [row.scores["psnr"].blind for row in rows if row.scores["psnr"].blind is not None]
    low, high = min([*(mean.low for mean in means), *blinds]), max(mean.high for mean in means)
    pad = max(1.0, 0.08 * (high - low))
    right = WIDTH - min(max(len(line) for lines in labels for line in lines) * CHARACTER + 34, 260)
    y = Scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    column = (right - LEFT) / len(models)
    places = {model: LEFT + column * (index + 0.5) for index, model in enumerate(models)}
    parts = [_frame(y, right, places, column)]
    if blinds:
        at = y(sum(blinds) / len(blinds))
        parts.append(
            f'<g class="floor"><title>blind guess</title>'
            f'<line x1="{LEFT}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT + 6}" y="{at - 4:.1f}">blind guess</text></g>'
        )
    ends = []
    for index, name in enumerate(names):
        found = {row.threat_model: row for row in rows if row.obfuscation == name}
        # Side by side within a column, so that bars of equal height do not cover one another.
        shift = (index - (len(names) - 1) / 2) * min(9.0, 0.6 * column / len(names))
        points = [
            (places[model] + shift, y(found[model].scores["psnr"].mean.mean), found[model])
            for model in models
            if model in found
        ]
        line = "L".join(f"{px:.1f} {py:.1f}" for px, py, _ in points)
        parts.append(f'<g class="{series_class(index)}"><path class="curve" d="M{line}"/>')
        parts += [_point(px, py, row, y) for px, py, row in points]
        parts.append("</g>")
        ends.append((points[-1][0], points[-1][1]))
    gap = max(map(len, labels)) * LINE + 3
    heights = spread([py for _, py in ends], gap, TOP + LINE / 2, HEIGHT - BOTTOM - LINE / 2)
    for index, ((px, py), moved, lines) in enumerate(zip(ends, heights, labels, strict=True)):
        half = len(lines) * LINE / 2
        parts.append(
            f'<path class="leader {series_class(index)}" d="M{px + 6:.1f} {py:.1f}L{right + 6:.1f} {moved:.1f}"/>'
            + label_text(lines, Box(right + 10, moved - half, WIDTH, moved + half))
        )
    return svg("What comes back under each threat model", HEIGHT, parts)


def _point(px: float, py: float, row: Row, y: Scale) -> str:
    """A marker at (px, py) with a bar for its interval and a tip with its numbers."""
    mean = row.scores["psnr"].mean
    tip = f"{row.obfuscation}, {row.threat_model}: {formatting.decibels(mean.mean)} {formatting.bounds(mean, 1)}"
    return (
        f'<g class="point"><title>{escape(tip)}</title>'
        f'<path class="bar" d="M{px:.1f} {y(mean.high):.1f}V{y(mean.low):.1f}"/>'
        f'<path class="marker" transform="translate({px:.1f} {py:.1f}) scale(.75)" d="{MARKERS[row.family]}"/></g>'
    )


def _frame(y: Scale, right: float, places: dict[str, float], column: float) -> str:
    """Grid lines, threat models below them, decibels on the left."""
    grid = "".join(f'<line x1="{LEFT}" x2="{right:.1f}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks())
    beside = "".join(f'<text class="end" x="{LEFT - 8}" y="{y(t) + 4:.1f}">{t:g}</text>' for t in y.ticks())
    below = ""
    for model, px in places.items():
        named, _, last = model.rpartition(" ")
        lines = [named, last] if len(model) * CHARACTER > column else [model]
        below += "".join(
            f'<text class="middle" x="{px:.1f}" y="{y.start + 18 + LINE * i:.1f}">{escape(line)}</text>'
            for i, line in enumerate(lines)
        )
    middle = (y.start + y.end) / 2
    return (
        f'<g class="grid">{grid}</g><g class="ticks">{below}{beside}</g>'
        f'<line class="axis" x1="{LEFT}" x2="{right:.1f}" y1="{y.start:.1f}" y2="{y.start:.1f}"/>'
        f'<text class="name middle" transform="translate(14 {middle:.1f}) rotate(-90)">'
        "PSNR, dB (higher: more came back)</text>"
    )
