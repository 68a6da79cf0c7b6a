"""How much comes back under each threat model, as one SVG chart for each client.

Threat models have no order, so no line joins them: each obfuscation has a row, and each threat model a mark in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unveil.report.marks_chart import Mark, legend, marks_chart
from unveil.report.rows import Row


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
                    legend=legend(models),
                    svg=marks_chart(
                        "What comes back under each threat model",
                        [Mark(line=row.obfuscation, series=row.threat_model, row=row) for row in members],
                    ),
                )
            )
    return charts
