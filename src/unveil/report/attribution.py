"""How much comes back of each group of layers sent alone, and kept back alone, as one SVG chart for each client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unveil.report.kept_back import KeptBack, in_words
from unveil.report.marks_chart import Mark, legend, marks_chart

EVERYTHING, ALONE, WITHOUT = "everything is sent", "it alone is sent", "all but it is sent"


@dataclass(frozen=True, kw_only=True)
class AttributionChart:
    """The chart of one client.

    Args:
        table: The choices of layers that it shows.
        legend: CSS classes and outline of each series' mark, and its name.
        svg: The chart.
    """

    table: KeptBack
    legend: Sequence[tuple[str, str, str]]
    svg: Markup


def attribution_charts(tables: Sequence[KeptBack]) -> list[AttributionChart]:
    """The charts of clients of which two groups of layers or more were each sent alone and kept back alone.

    Groups stand in the order of what came back of them alone.
    """
    return [chart for table in tables if (chart := _chart(table)) is not None]


def _chart(table: KeptBack) -> AttributionChart | None:
    found = {(tuple(one.layers.named), one.layers.kept_back): one.row for one in table.choices}
    groups = [named for named, kept_back in found if not kept_back and (named, True) in found]
    if len(groups) < 2:
        return None
    groups.sort(key=lambda named: -found[named, False].scores["psnr"].mean.mean)
    marks = [Mark(line="the whole update", series=EVERYTHING, row=table.whole)]
    for named in groups:
        for series, kept_back in ((ALONE, False), (WITHOUT, True)):
            marks.append(Mark(line=in_words(named), series=series, row=found[named, kept_back]))
    return AttributionChart(
        table=table,
        legend=legend([EVERYTHING, ALONE, WITHOUT]),
        svg=marks_chart("What comes back of each group of layers, sent alone or kept back alone", marks),
    )
