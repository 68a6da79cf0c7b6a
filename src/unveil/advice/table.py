"""What an advice found as a table in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from unveil.advice.advising import Advice
from unveil.advice.page import lines
from unveil.core.errors import one_line
from unveil.gate.table import STYLES


def table(advice: Advice) -> Table:
    """One line for each setting: leakage with its bound, accuracy with its cost, bytes, and whether it is enough."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    found.add_column("obfuscation", overflow="fold")
    for heading in ("leakage", "bound"):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("worst at", overflow="fold")
    for heading in ("accuracy", "cost, points", "bytes", "smaller"):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("target", no_wrap=True)
    for line in lines(advice):
        phase, points = line.worst_at.partition(",")[0], line.cost.partition(" ")[0]  # the page has the rest
        texts = (line.leakage, line.bound, phase, line.accuracy, points, line.size, line.smaller)
        found.add_row(
            Text(one_line(line.obfuscation)),  # `Text` keeps square brackets from being read as markup
            *(Text(one_line(text)) for text in texts),
            Text(line.verdict, style=STYLES[line.ruling]),
        )
    return found
