"""How much comes back from the mean over more and more clients, as one SVG chart for each client of the audit file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unveil.report.formatting import count
from unveil.report.marks_chart import Mark, legend, marks_chart
from unveil.report.rows import Row


@dataclass(frozen=True, kw_only=True)
class CohortChart:
    """One client, training, attack, enhancer and threat model in cohorts of several sizes.

    Args:
        client: The client's name without the size of its cohort.
        training, attack, enhancer, threat_model: As in `Row`.
        legend: CSS classes and outline of each obfuscation's mark, and its name.
        svg: The chart.
    """

    client: str
    training: str
    attack: str
    enhancer: str
    threat_model: str
    legend: Sequence[tuple[str, str, str]]
    svg: Markup


def cohort_charts(rows: Sequence[Row]) -> list[CohortChart]:
    """One chart for each client, training, attack, enhancer and threat model with cohorts of at least two sizes."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores:
            _, *others = row.section
            groups.setdefault((row.cohort_of or row.client, *others), []).append(row)
    charts = []
    for (client, training, attack, enhancer, threat_model), members in groups.items():
        if len({row.cohort for row in members}) > 1:
            members.sort(key=lambda row: row.cohort)
            charts.append(
                CohortChart(
                    client=client,
                    training=training,
                    attack=attack,
                    enhancer=enhancer,
                    threat_model=threat_model,
                    legend=legend(list(dict.fromkeys(row.obfuscation for row in members))),
                    svg=marks_chart(
                        "What comes back from the mean over several clients",
                        [Mark(line=_size(row), series=row.obfuscation, row=row) for row in members],
                    ),
                )
            )
    return charts


def _size(row: Row) -> str:
    """How many clients and pictures the mean is over."""
    return f"{count(row.cohort, 'client')}, {count(row.pictures, 'picture')}"
