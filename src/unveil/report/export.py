"""What a report says of each row, as data: for `--json` and for spreadsheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unveil.core.errors import writing
from unveil.core.files import write_whole
from unveil.core.spreadsheets import Cell, csv_of
from unveil.report.rows import Row, Score
from unveil.report.section import best_control
from unveil.report.significance import NO_UPDATE

NAME = "summary.csv"


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object for each row, plain JSON: settings, verdict, and each metric's mean with interval and controls.

    Args:
        rows: Rows with their verdicts.
    """
    return [
        {
            **_settings(row),
            "seeds": list(row.seeds),
            "verdict": row.verdict.level.value,
            "sentence": row.verdict.sentence,
            "metrics": {name: _metric(row, name, score) for name, score in row.scores.items()},
        }
        for row in rows
    ]


def write_summary(folder: Path, rows: Sequence[Row]) -> Path:
    """Write `summary.csv` into a results folder: one line for each row, as in `summary`, and return its path.

    Each metric has the columns `NAME mean`, `NAME low` and `NAME high` (its 95 % interval), `NAME blind guess`, `NAME
    best control` and `NAME p` (corrected; empty if it was not tested).

    Raises:
        UsageError: The folder cannot be written.
    """
    metrics = dict.fromkeys(name for row in rows for name in row.scores)
    records: list[dict[str, Cell]] = []
    for row in rows:
        record: dict[str, Cell] = {
            **_settings(row),
            "seeds": " ".join(map(str, row.seeds)),
            "verdict": row.verdict.level.value,
        }
        for name in metrics:
            found = _metric(row, name, row.scores[name]) if name in row.scores else {}
            for column in ("mean", "low", "high", "blind guess", "best control", "p"):
                record[f"{name} {column}"] = found.get(column.replace(" ", "_"))
        records.append(record)
    with writing(folder, "--out"):
        write_whole(folder / NAME, csv_of(records), private=True)
    return folder / NAME


def _settings(row: Row) -> dict[str, Cell]:
    """What identifies a row, and what was sent."""
    return {
        "client": row.client,
        "model": row.model,
        "training": row.training,
        "attack": row.attack,
        "enhancer": row.enhancer,
        "threat_model": row.threat_model,
        "obfuscation": row.obfuscation,
        "family": row.family,
        "pictures": row.pictures,
        "wire_bits": row.wire_bits,
        "raw_bits": row.raw_bits,
        "seconds": row.seconds,
    }


def _metric(row: Row, name: str, score: Score) -> Mapping[str, Any]:
    """The numbers of one metric."""
    return {
        "mean": score.mean.mean,
        "low": score.mean.low,
        "high": score.mean.high,
        "blind_guess": score.blind,
        "best_control": best_control(row, name),
        "controls": {c.control: c.value for c in score.contrasts if c.control != NO_UPDATE},
        "p": row.above.get(name),
    }
