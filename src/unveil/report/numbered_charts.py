"""How much comes back as one number of a client's rises, such as its rounds, as one SVG chart for each client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unveil.report.marks_chart import Mark, legend, marks_chart
from unveil.report.rows import Row


@dataclass(frozen=True, kw_only=True)
class NumberedChart:
    """One client, training, attack, enhancer and threat model with several values of the number.

    Args:
        client: The client's name without the number.
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


def numbered_charts(
    rows: Sequence[Row],
    *,
    title: str,
    client: Callable[[Row], str],
    number: Callable[[Row], int],
    line: Callable[[Row], str],
) -> list[NumberedChart]:
    """One chart for each client, training, attack, enhancer and threat model with at least two values of the number.

    Args:
        rows: The rows of a report.
        title: What a chart shows, for readers who do not see it.
        client: Returns the client's name without the number; empty for a row of no chart.
        number: Returns the number.
        line: Returns the name of the line on which a row's mark stands.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if "psnr" in row.scores and client(row):
            groups.setdefault((client(row), *row.section[1:]), []).append(row)
    return [
        NumberedChart(
            client=name,
            training=training,
            attack=attack,
            enhancer=enhancer,
            threat_model=threat_model,
            legend=legend(list(dict.fromkeys(row.obfuscation for row in members))),
            svg=marks_chart(
                title,
                [Mark(line=line(row), series=row.obfuscation, row=row) for row in sorted(members, key=number)],
            ),
        )
        for (name, training, attack, enhancer, threat_model), members in groups.items()
        if len(set(map(number, members))) > 1
    ]
