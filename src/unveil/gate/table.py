"""The judgements of a gate as a table in the terminal, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from unveil.core.errors import one_line
from unveil.gate.decision import Decision
from unveil.gate.judging import Judgement, Ruling, number

STYLES = {Ruling.EXCEEDED: "bold red", Ruling.UNJUDGED: "yellow", Ruling.PASSED: "blue"}
"""No ruling is green, because a pass promises nothing."""


def table(judgements: Sequence[Judgement]) -> Table:
    """One line for each judgement: what was judged, the value, its bound, and the ruling."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("fails if", "obfuscation", "clients", "attack"):
        found.add_column(heading, overflow="fold")
    for heading in ("value", "bound"):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("verdict", no_wrap=True)
    for one in judgements:
        # `Text` keeps square brackets in a name from being read as markup.
        found.add_row(
            Text(one_line(one.condition)),
            Text(one_line(one.pool.obfuscation)),
            Text(one_line(one.pool.clients)),
            Text(one_line(one.pool.attacker)),
            *(Text("–" if n is None else one_line(number(n, one.facts))) for n in (one.value, one.bound)),
            Text(one.ruling.value, style=STYLES[one.ruling]),
        )
    return found


def as_data(decision: Decision) -> dict[str, Any]:
    """The decision as plain JSON: exit code, sentences, and every judgement."""
    return {
        "exit_code": decision.exit_code,
        "sentence": decision.sentence,
        "problems": list(decision.problems),
        "remarks": list(decision.remarks),
        "judgements": [
            {
                "rule": one.rule,
                "condition": one.condition,
                "obfuscation": one.pool.obfuscation,
                "clients": [row.client for row in one.pool.rows],
                "training": one.pool.rows[0].training,
                "attack": one.pool.rows[0].attack,
                "enhancer": one.pool.rows[0].enhancer,
                "threat_model": one.pool.rows[0].threat_model,
                "pictures": one.pool.pictures,
                "value": one.value,
                "bound": one.bound,
                "limit": one.limit,
                "since": one.since,
                "verdict": one.ruling.value,
                "sentence": one.sentence,
            }
            for one in decision.judgements
        ],
    }
