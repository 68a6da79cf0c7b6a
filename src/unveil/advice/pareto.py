"""The chart of leakage against accuracy, bytes as size, as SVG text for the page."""

from __future__ import annotations

import math
from html import escape

from markupsafe import Markup

from unveil.advice.advising import Advice
from unveil.advice.assessment import Assessment
from unveil.advice.target import written
from unveil.gate.judging import Judgement, number
from unveil.report.charts import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    led_label,
    spec_lines,
    svg,
)
from unveil.report.formatting import ratio
from unveil.report.svg_layout import Box, Scale, place_labels

LARGEST, SMALLEST = 18.0, 3.5
"""Radius of the largest marker, and of the smallest, in pixels."""


def pareto(advice: Advice) -> Markup | None:
    """Return the chart; None if no setting has a leakage.

    Each setting is a disc whose area shows its bytes, with an interval of its accuracy cost. The target is a line.
    A thin line joins the settings that no other one beats in both.
    """
    shown = [(one, worst) for one in (advice.baseline, *advice.assessments) if (worst := _worst(one)) is not None]
    if not shown:
        return None
    facts = shown[0][1].facts
    factor = 100 if facts.is_rate else 1
    across = [factor * _bound(worst) for _, worst in shown]
    limit = factor * advice.question.target.limit
    spans = [_accuracy_span(one, advice.baseline) for one, _ in shown]
    x = _scale([*across, limit], LEFT, WIDTH - RIGHT)
    y = _scale([value for span in spans for value in span], HEIGHT - BOTTOM, TOP)
    points = [(x(value), y(100 * one.accuracy)) for value, (one, _) in zip(across, shown, strict=True)]
    most = max(one.wire_bits for one, _ in shown)
    radii = [max(SMALLEST, LARGEST * math.sqrt(one.wire_bits / most)) for one, _ in shown]
    unit = "%" if facts.is_rate else facts.unit
    title = f"{facts.title or facts.name}{f', {unit}' if unit else ''}, end of the 95 % interval (more came back: " + (
        "right)" if facts.leak == "high" else "left)"
    )
    parts = [axes(x, y, title, "accuracy after the last round, %", lambda value: f"{value:g}")]
    target, beside = _line_at(x(limit), y, f"target {written(advice.question.target)}")
    parts.append(target)
    parts.append(_front(points, across, [one.accuracy for one, _ in shown], is_low_better=facts.leak == "high"))
    obstacles = [Box(px - r - 3, py - r, px + r + 3, py + r) for (px, py), r in zip(points, radii, strict=True)]
    obstacles.append(beside)
    labels = [spec_lines(one.obfuscation) for one, _ in shown]
    sizes = [(max(map(len, lines)) * CHARACTER, len(lines) * LINE) for lines in labels]
    boxes = place_labels(points, sizes, Box(LEFT + 2, TOP, WIDTH - 2, HEIGHT - BOTTOM - 2), obstacles)
    # The largest disc first, so that none hides a smaller one.
    discs = sorted(zip(shown, points, radii, spans, strict=True), key=lambda disc: -disc[2])
    for (one, worst), (px, py), radius, span in discs:
        tip = (
            f"{one.obfuscation}: {number(_bound(worst), facts)}, accuracy {100 * one.accuracy:.1f}%, "
            f"{ratio(advice.baseline.wire_bits / one.wire_bits)} smaller"
        )
        parts.append(
            f'<g class="point family-{escape(one.family)}"><title>{escape(tip)}</title>'
            f'<path class="bar" d="M{px:.1f} {y(span[0]):.1f}V{y(span[1]):.1f}"/>'
            f'<circle class="marker" cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}"/></g>'
        )
    parts += [
        led_label(lines, box, point, radius)
        for lines, box, point, radius in zip(labels, boxes, points, radii, strict=True)
    ]
    return Markup(svg("Leakage against accuracy", HEIGHT, parts))


def _worst(assessment: Assessment) -> Judgement | None:
    found = None if assessment.leakage is None else assessment.leakage.worst
    return found if found is not None and found.bound is not None and math.isfinite(found.bound) else None


def _bound(judgement: Judgement) -> float:
    return 0.0 if judgement.bound is None else judgement.bound


def _accuracy_span(assessment: Assessment, baseline: Assessment) -> tuple[float, float]:
    """The baseline's accuracy less both ends of the cost, in per cent from 0 to 100."""
    ends = (100 * (baseline.accuracy - end) for end in (assessment.cost.high, assessment.cost.low))
    low, high = (min(max(end, 0.0), 100.0) for end in ends)
    return low, high


def _scale(values: list[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    pad = max(0.12 * (high - low), 0.01 * max(abs(low), abs(high)), 0.1)
    return Scale(low - pad, high + pad, start, end)


def _line_at(at: float, y: Scale, text: str) -> tuple[str, Box]:
    """A vertical line with a text beside its top, and the box of the text."""
    top, bottom = min(y.start, y.end), max(y.start, y.end)
    anchor = "end" if at > WIDTH / 2 else "start"
    beside = at - 5 if anchor == "end" else at + 5
    width = len(text) * CHARACTER
    left = beside - width if anchor == "end" else beside
    line = (
        f'<g class="floor"><title>{escape(text)}</title><line x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" '
        f'y2="{bottom:.1f}"/><text text-anchor="{anchor}" x="{beside:.1f}" y="{top + LINE:.1f}">{escape(text)}</text>'
        "</g>"
    )
    return line, Box(left, top, left + width, top + 1.3 * LINE)


def _front(
    points: list[tuple[float, float]], leakage: list[float], accuracy: list[float], *, is_low_better: bool
) -> str:
    """A line through the settings that no other setting beats in both leakage and accuracy."""
    sign = 1 if is_low_better else -1
    best = [
        place
        for place, (a, b) in enumerate(zip(leakage, accuracy, strict=True))
        if not any(
            sign * other <= sign * a and right >= b and (other, right) != (a, b)
            for other, right in zip(leakage, accuracy, strict=True)
        )
    ]
    path = "L".join(f"{points[i][0]:.1f} {points[i][1]:.1f}" for i in sorted(best, key=lambda i: points[i][0]))
    return f'<path class="leader" d="M{path}"/>' if len(best) > 1 else ""
