"""How much comes back from more and more rounds of the same client, as one SVG chart for each client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unveil.report.formatting import count
from unveil.report.marks_chart import Mark, legend, marks_chart
from unveil.report.rows import Row


@dataclass(frozen=True, kw_only=True)
class RoundsChart:
    """One client, training, attack, enhancer and threat model with several numbers of rounds.

    Args:
        client: The client's name without the number of rounds.
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


def rounds_charts(rows: Sequence[Row]) -> list[RoundsChart]:
    """One chart for each client, training, attack, enhancer and threat model with at least two numbers of rounds."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores and row.rounds_of:
            _, *others = row.section
            groups.setdefault((row.rounds_of, *others), []).append(row)
    return [
        RoundsChart(
            client=client,
            training=training,
            attack=attack,
            enhancer=enhancer,
            threat_model=threat_model,
            legend=legend(list(dict.fromkeys(row.obfuscation for row in members))),
            svg=marks_chart(
                "What comes back from several rounds of one client",
                [
                    Mark(line=count(row.rounds, "round"), series=row.obfuscation, row=row)
                    for row in sorted(members, key=lambda row: row.rounds)
                ],
            ),
        )
        for (client, training, attack, enhancer, threat_model), members in groups.items()
        if len({row.rounds for row in members}) > 1
    ]
