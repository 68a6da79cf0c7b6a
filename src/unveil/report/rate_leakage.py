"""Do fewer bits mean less leakage? Leakage against bits on the wire, one line for each family of obfuscations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from markupsafe import Markup

from unveil.metrics import facts_of
from unveil.report import formatting
from unveil.report.charts import FAMILY_NAMES, MARKERS, WIDTH, axes, svg
from unveil.report.rows import Row
from unveil.report.statistics import kendall_tau
from unveil.report.svg_layout import Scale

DRAWN = ("psnr", "ssim", "lpips", "semantic_jaccard", "feature_similarity", "reid_top1")
PANEL, GAP = 250, 58
"""Height of a chart and of the gap below it, in pixels."""

LEFT, RIGHT, TOP = 58, 14, 26


@dataclass(frozen=True, kw_only=True)
class Point:
    """One obfuscation and one metric.

    Args:
        obfuscation, family: As in `Row`.
        compression: Size as float32 divided by the size sent, mean over the clients.
        value: Score of the attack that got most, in the metric's unit, mean over the clients.
    """

    obfuscation: str
    family: str
    compression: float
    value: float


@dataclass(frozen=True, kw_only=True)
class RateLeakage:
    """The charts of leakage against bits, and their correlations.

    Args:
        chart: All panels as one SVG, one panel for each metric.
        taus: Metric and Kendall's tau in [-1, 1] between bits sent and leakage over the obfuscations, 1 where fewer
            bits always mean less leakage; None where tau is not defined.
        families: Family, outline of its marker and its name, for the legend.
        clients: Number of clients, trainings and threat models that the means are over.
        attacks: Number of attacks.
    """

    chart: Markup
    taus: Sequence[tuple[str, float | None]]
    families: Sequence[tuple[str, str, str]]
    clients: int
    attacks: int


def rate_leakage(rows: Sequence[Row]) -> RateLeakage | None:
    """The charts of an audit; None unless two families beside `none` were each tried at two strengths or more."""
    strengths: dict[str, set[str]] = {}
    for row in rows:
        strengths.setdefault(row.family, set()).add(row.obfuscation)
    if sum(len(found) > 1 for family, found in strengths.items() if family != "none") < 2:
        return None
    names = [name for name in DRAWN if all(name in row.scores for row in rows)]
    panels = [(name, points(rows, name)) for name in names]
    present = {point.family for _, found in panels for point in found}
    return RateLeakage(
        chart=Markup(_panels(panels)),
        taus=[(name, _tau(name, found)) for name, found in panels],
        families=[(family, MARKERS[family], FAMILY_NAMES[family]) for family in MARKERS if family in present],
        clients=len({_client(row) for row in rows}),
        attacks=len({row.attack for row in rows}),
    )


def points(rows: Sequence[Row], name: str) -> list[Point]:
    """One point for each obfuscation that every client was tried with, the least compressed first.

    Args:
        rows: All rows of an audit; each has the metric.
        name: Name of the metric.
    """
    high = facts_of(name).leak == "high"
    clients = dict.fromkeys(_client(row) for row in rows)
    found = []
    for obfuscation in dict.fromkeys(row.obfuscation for row in rows):
        there = [row for row in rows if row.obfuscation == obfuscation and row.wire_bits > 0]
        of = {client: [row for row in there if _client(row) == client] for client in clients}
        if not all(of.values()):
            continue
        best = [(max if high else min)(row.scores[name].mean.mean for row in group) for group in of.values()]
        found.append(
            Point(
                obfuscation=obfuscation,
                family=there[0].family,
                compression=fmean(group[0].compression for group in of.values()),
                value=fmean(best),
            )
        )
    return sorted(found, key=lambda point: point.compression)


def _client(row: Row) -> tuple[str, str, str]:
    """What a mean over clients counts as one."""
    return row.client, row.training, row.threat_model


def _tau(name: str, found: Sequence[Point]) -> float | None:
    sign = 1 if facts_of(name).leak == "high" else -1
    return kendall_tau([-point.compression for point in found], [sign * point.value for point in found])


def _panels(panels: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Panels in two columns."""
    width = WIDTH / 2
    parts = []
    for index, (name, found) in enumerate(panels):
        left, top = (index % 2) * width, (index // 2) * (PANEL + GAP)
        parts.append(_panel(name, found, left, top + TOP, left + width, top + PANEL))
    return svg("Leakage against bits, by family", -(-len(panels) // 2) * (PANEL + GAP), parts)


def _panel(name: str, found: Sequence[Point], left: float, top: float, right: float, bottom: float) -> str:
    """One metric; the edges are in pixels."""
    shown = facts_of(name)
    values = [point.value for point in found]
    pad = max(0.08 * (max(values) - min(values)), 0.02)
    sizes = [point.compression for point in found]
    x = Scale(min(sizes) / 1.5, max(sizes) * 1.5, left + LEFT, right - RIGHT, log=True)
    y = Scale(min(values) - pad, max(values) + pad, bottom, top)
    if shown.leak == "low":  # more leakage is up in every panel
        y = Scale(y.low, y.high, y.end, y.start)
    title = f"{shown.heading} ({'higher' if shown.leak == 'high' else 'lower, here upwards'}: more came back)"
    parts = [axes(x, y, "times smaller (log scale)", "", lambda value: f"{value:g}", beside_at=left + 12)]
    parts.append(f'<text class="name" x="{left + LEFT:.1f}" y="{top - 10:.1f}">{escape(title)}</text>')
    bare = [point for point in found if point.family == "none"]
    for family in MARKERS:
        of = [point for point in found if point.family == family]
        # Every line starts at the baseline, which each family is a weakened form of.
        ordered = sorted([*bare, *of], key=lambda p: (p.compression, -p.value if shown.leak == "high" else p.value))
        if family != "none" and len(of) > 0:
            line = "L".join(f"{x(p.compression):.1f} {y(p.value):.1f}" for p in ordered)
            parts.append(f'<path class="curve family-line family-{family}" d="M{line}"/>')
        for point in of:
            written = f"{point.value:.{shown.digits}f}"
            tip = f"{point.obfuscation}: {shown.heading} {written}, {formatting.ratio(point.compression)} smaller"
            parts.append(
                f'<g class="point family-{family}"><title>{escape(tip)}</title><path class="marker" '
                f'transform="translate({x(point.compression):.1f} {y(point.value):.1f})" d="{MARKERS[family]}"/></g>'
            )
    return "".join(parts)
