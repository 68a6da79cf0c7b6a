"""The rows of a report as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unveil.core.errors import one_line, printable
from unveil.core.records import Trial
from unveil.report import formatting
from unveil.report.conclusion import headline
from unveil.report.guarantees import summary
from unveil.report.levels import Level
from unveil.report.pooling import summarise
from unveil.report.rows import Row, Score
from unveil.report.worst import has_overview, worst_rows

STYLES = {
    Level.LEAKS: "bold red",
    Level.PARTLY: "yellow",
    Level.NONE: "blue",
    Level.INCONCLUSIVE: "dim",
}
"""No level is green, because finding no leakage promises nothing."""

LONGEST = 200
"""Most rows of one table; the files of the results folder have all of them."""


def print_table(trials: Sequence[Trial], console: Console, *, rows: Sequence[Row] | None = None) -> None:
    """Print the headline, each obfuscation at its worst, and one table for each section, at most 100 columns wide.

    A table shows its first `LONGEST` rows and says how many there are.

    Args:
        trials: The trials of an audit.
        console: Where to print.
        rows: What `summarise` makes of the trials, where it is at hand; thousands of trials take seconds.
    """
    rows = summarise(trials) if rows is None else rows
    console.print(Text(printable(formatting.plain(headline(rows))), style="bold"))
    if has_overview(rows):
        console.print()
        console.print(Text("each obfuscation at its worst, over all attacks, clients and attackers", style="dim"))
        worst = worst_rows(rows)
        console.print(_overview(worst[:LONGEST]))
        _say_rest(worst, console)
    enhanced = any(row.enhancer for row in rows)
    for _, group in groupby(rows, key=lambda row: row.section):
        members = list(group)
        one = members[0]
        enhancer = one.enhancer or ("no enhancer" if enhanced else "")
        console.print()
        parts = (one.client, one.training, one.attack, enhancer, one.threat_model)
        console.print(Text(one_line(" · ".join(filter(None, parts))), style="dim"))
        console.print(_table(members[:LONGEST]))
        _say_rest(members, console)
    if said := summary(rows):
        console.print(Text(f"\n{said}"))


def _say_rest(rows: Sequence[Row], console: Console) -> None:
    """Say how many rows a table leaves out, if any."""
    if len(rows) > LONGEST:
        rest = f"the first {LONGEST} of {len(rows)} rows; the report and summary.csv have all"
        console.print(Text(rest, style="dim"))


def _overview(rows: Sequence[Row]) -> Table:
    """One row for each obfuscation: its worst verdict, and where it was found."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("obfuscation", overflow="fold", ratio=1)
    table.add_column("worst verdict", no_wrap=True)
    table.add_column("PSNR, dB", justify="right", no_wrap=True)
    table.add_column("attack", overflow="fold")
    table.add_column("client", overflow="fold")
    for row in rows:
        level = row.verdict.level
        table.add_row(
            Text(one_line(row.obfuscation)),
            Text(level.value, style=STYLES[level]),
            _plain(row.scores.get("psnr"), 1),
            Text(one_line(" then ".join(filter(None, (row.attack, row.enhancer))))),
            Text(one_line(row.client)),
        )
    return table


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("obfuscation", overflow="fold", ratio=1)
    table.add_column("verdict", no_wrap=True)
    perceptual = any("lpips" in row.scores for row in rows)
    for name in ("PSNR, dB", "blind", "SSIM", *(["LPIPS"] if perceptual else []), "sent", "ratio", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        level = row.verdict.level
        psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
        table.add_row(
            # `Text` keeps square brackets in a name from being read as markup.
            Text(one_line(row.obfuscation)),
            Text(level.value, style=STYLES[level]),
            _mean(psnr, 1),
            "–" if psnr is None or psnr.blind is None else f"{psnr.blind:.1f}",
            _plain(ssim),
            *([_plain(row.scores.get("lpips"))] if perceptual else []),
            formatting.bits(row.wire_bits),
            formatting.ratio(row.compression),
            formatting.seconds(row.seconds),
        )
    return table


def _plain(score: Score | None, digits: int = 2) -> str:
    return "–" if score is None else f"{score.mean.mean:.{digits}f}"


def _mean(score: Score | None, digits: int) -> Text:
    return Text("–" if score is None else f"{score.mean.mean:.{digits}f} {formatting.bounds(score.mean, digits)}")
