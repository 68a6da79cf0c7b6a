"""The overview of an audit: for each obfuscation the row in which most came back.

Several attacks, clients, threat models and seeds give several verdicts on one obfuscation. Whoever relies on it has to
count with the worst of them: an attack that fails takes nothing back of what another one found.
"""

from __future__ import annotations

from collections.abc import Sequence

from unveil.report.levels import Level
from unveil.report.rows import Row

SEVERITY = (Level.INCONCLUSIVE, Level.NONE, Level.PARTLY, Level.LEAKS)
"""Levels from the one that says least of a leak to the one that says most."""


def worst_rows(rows: Sequence[Row]) -> list[Row]:
    """One row for each obfuscation, in the order of first appearance: of the worst level, and there of the most PSNR.

    Args:
        rows: The rows of all sections.
    """
    worst: dict[str, Row] = {}
    for row in rows:
        kept = worst.get(row.obfuscation)
        if kept is None or _severity(row) > _severity(kept):
            worst[row.obfuscation] = row
    return list(worst.values())


def has_overview(rows: Sequence[Row]) -> bool:
    """Whether some obfuscation has more than one row, so that an overview says more than the tables."""
    return len(worst_rows(rows)) < len(rows)


def _severity(row: Row) -> tuple[int, float]:
    psnr = row.scores.get("psnr")
    gain = None if psnr is None else psnr.gain
    return SEVERITY.index(row.verdict.level), float("-inf") if gain is None else gain.mean
