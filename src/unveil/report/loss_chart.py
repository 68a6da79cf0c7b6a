"""The chart of the attack's loss, as SVG text for the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from unveil.report.charts import (
    BOTTOM,
    CHARACTER,
    LEFT,
    LINE,
    TOP,
    WIDTH,
    axes,
    label_text,
    series_class,
    spec_lines,
    svg,
)
from unveil.report.rows import Curve, Row
from unveil.report.svg_layout import Box, Scale, spread


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
    room = max(len(line) for lines in labels for line in lines) * CHARACTER + 34
    sizes = [len(lines) * LINE + 3 for lines in labels]
    height = max(320, TOP + BOTTOM + round(sum(sizes)))
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
    heights = spread([end[1] for end in ends], sizes, TOP, height - BOTTOM)
    for index, ((end_x, end_y), moved, lines) in enumerate(zip(ends, heights, labels, strict=True)):
        left = WIDTH - room + 26
        half = len(lines) * LINE / 2
        parts.append(
            f'<path class="leader {series_class(index)}" d="M{end_x + 3:.1f} {end_y:.1f}L{left - 5:.1f} {moved:.1f}"/>'
            + label_text(lines, Box(left, moved - half, WIDTH, moved + half))
        )
    return svg("Loss of the attack", height, parts)


def _drawable(value: float) -> bool:
    return 1e-306 < value < 1e306  # beyond, the margin of the axis would overflow a float


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
