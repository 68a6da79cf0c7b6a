"""The head of the report: who audited what, when, and with which pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from unveil.core.records import Trial
from unveil.core.runs import Run
from unveil.report.rows import Row

SOURCES = {"builtin": "those built into unveil, which are public", "given": "given in Python"}
"""How the head of the page writes a source of pictures that is no folder."""

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def facts(rows: Sequence[Row], trials: Sequence[Trial], runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Names and values for the head of the page.

    Args:
        rows: All rows of the report.
        trials: All trials of the report.
        runs: The runs of the audit that the results folder knows of.
    """
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    tested = {row.obfuscation for row in rows if not row.is_baseline}
    baseline = any(row.is_baseline for row in rows)
    arithmetic = dict.fromkeys(trial.settings.get("arithmetic", "not recorded") for trial in trials)
    sources = dict.fromkeys(SOURCES.get(source, source) for trial in trials if (source := trial.settings.get("images")))
    return [
        ("Date", dates([run.date for run in runs])),
        ("Author", ", ".join(dict.fromkeys(run.author for run in runs if run.author)) or "not named"),
        ("Pictures", ", ".join(sources) or "not recorded"),
        ("Clients", ", ".join(dict.fromkeys(row.client for row in rows)) or "none"),
        ("Attacks", ", ".join(dict.fromkeys(row.attack for row in rows)) or "none"),
        ("Obfuscations", f"{len(tested)}{' and the baseline without any' if baseline else ', no baseline'}"),
        ("Arithmetic", ", ".join(arithmetic) or "none"),
        ("Trials", f"{len(trials)}, seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds)) or 'none'}"),
    ]


def dates(days: Sequence[str]) -> str:
    """The first and the last of some days, as in `28 November to 2 December 2026`.

    Args:
        days: Each as in 2026-11-30; what is no day is left out.
    """
    known = sorted(day for text in days if (day := _day(text)) is not None)
    if not known:
        return "not recorded"
    first, last = known[0], known[-1]
    if first == last:
        return _written(last)
    return f"{_written(first) if first.year != last.year else _written(first).rpartition(' ')[0]} to {_written(last)}"


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def _written(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
