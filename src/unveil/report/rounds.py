"""How much comes back from more and more rounds of the same client, as one SVG chart for each client."""

from __future__ import annotations

from collections.abc import Sequence

from unveil.report.formatting import count
from unveil.report.numbered_charts import NumberedChart, numbered_charts
from unveil.report.rows import Row


def rounds_charts(rows: Sequence[Row]) -> list[NumberedChart]:
    """The charts of clients with at least two numbers of rounds."""
    return numbered_charts(
        rows,
        title="What comes back from several rounds of one client",
        client=lambda row: row.rounds_of,
        number=lambda row: row.rounds,
        line=lambda row: count(row.rounds, "round"),
    )
