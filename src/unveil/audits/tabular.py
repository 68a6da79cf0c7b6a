"""Results as flat records, for pandas and spreadsheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unveil.audits.results import read_trials
from unveil.core.errors import writing
from unveil.core.files import write_whole
from unveil.core.records import Trial
from unveil.core.spreadsheets import Cell, csv_of

NAME = "scores.csv"

Record = dict[str, Cell]


def results(source: Path | str | Sequence[Trial]) -> list[Record]:
    """One record for each picture of each outcome, as in `pandas.DataFrame(uv.results("audits/audit"))`.

    Args:
        source: A results folder, or trials.

    Returns:
        Records that all have the same keys: the settings of a trial, `seed`, `family`, `wire_bits`, `raw_bits`,
        `iterations`, `stop`; `outcome` (`attack` or `enhanced`), `seconds`; `picture` (its place in the batch, from 0),
        `label` (the attack's), `confidence`, `original` and `reconstruction` (paths in the folder); each metric under
        its name, under `blind NAME` for a mid-grey picture and under `CONTROL NAME` for each control. None where a
        trial has no such value.

    Raises:
        UsageError: The folder holds no results, or a line of them cannot be read.
    """
    trials = read_trials(Path(source)) if isinstance(source, str | Path) else source
    records = [record for trial in trials for record in _records(trial)]
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]


def write_scores(folder: Path, trials: Sequence[Trial]) -> Path:
    """Write `scores.csv` into a results folder: one line for each picture, as in `results`, and return its path.

    Raises:
        UsageError: The folder cannot be written.
    """
    with writing(folder, "--out"):
        write_whole(folder / NAME, csv_of(results(trials)), private=True)
    return folder / NAME


def _records(trial: Trial) -> Iterator[Record]:
    """The records of one trial."""
    for name, outcome in trial.outcomes.items():
        tables = {"": outcome.scores, "blind ": trial.blind}
        tables |= {f"{control} ": scores for control, scores in outcome.controls.items()}
        for picture in range(max(map(len, outcome.scores.values()), default=len(outcome.images))):
            yield {
                **trial.settings,
                "seed": trial.seed,
                "family": trial.family,
                "wire_bits": trial.wire_bits,
                "raw_bits": trial.raw_bits,
                "iterations": trial.iterations,
                "stop": trial.stop.value,
                "outcome": name,
                "seconds": outcome.seconds,
                "picture": picture,
                "label": _at(outcome.labels, picture),
                "confidence": _at(outcome.confidence, picture),
                "original": _at(trial.originals, picture),
                "reconstruction": _at(outcome.images, picture),
                **{
                    prefix + metric: _at(values, picture)
                    for prefix, table in tables.items()
                    for metric, values in table.items()
                },
            }


def _at(values: Sequence[str] | Sequence[int] | Sequence[float], place: int) -> str | int | float | None:
    """The value at a place from 0; None where the list is shorter."""
    return values[place] if place < len(values) else None
