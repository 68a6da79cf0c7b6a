"""How much comes back from the mean over more and more clients, as one SVG chart for each client of the audit file."""

from __future__ import annotations

from collections.abc import Sequence

from unveil.report.formatting import count
from unveil.report.numbered_charts import NumberedChart, numbered_charts
from unveil.report.rows import Row


def cohort_charts(rows: Sequence[Row]) -> list[NumberedChart]:
    """The charts of clients with cohorts of at least two sizes."""
    return numbered_charts(
        rows,
        title="What comes back from the mean over several clients",
        client=lambda row: row.cohort_of or row.client,
        number=lambda row: row.cohort,
        line=lambda row: f"{count(row.cohort, 'client')}, {count(row.pictures, 'picture')}",
    )
