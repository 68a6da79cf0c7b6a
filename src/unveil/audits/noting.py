"""Noting in a results folder who ran an audit into it, when and with which command."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from unveil.core.errors import UsageError, writing
from unveil.core.files import reason_of, shown, write_whole
from unveil.core.inside import read_inside
from unveil.core.runs import LARGEST, NAME, Run, decoded, encoded


def note_run(folder: Path, *, command: str, author: str) -> None:
    """Add a run of today to the folder's `runs.json`, unless the same one is there.

    Args:
        folder: A results folder that can be written.
        command: The command; empty from Python.
        author: Who answers for the audit; empty for nobody.

    Raises:
        UsageError: The file is damaged.
    """
    note_runs(folder, [Run(command=command, date=datetime.date.today().isoformat(), author=author)])


def note_runs(folder: Path, runs: Sequence[Run]) -> None:
    """Add those of the runs to the folder's `runs.json` that are not there; arguments and errors as in `note_run`."""
    before = read_runs(folder)
    if more := [run for run in dict.fromkeys(runs) if run not in before]:
        with writing(folder, "--out"):
            write_whole(folder / NAME, encoded([*before, *more]), private=True)


def read_runs(folder: Path) -> list[Run]:
    """The runs that the folder knows of, oldest first.

    Raises:
        UsageError: The file is damaged, too large, or no regular file.
    """
    if not os.path.lexists(folder / NAME):
        return []
    fix = "delete it; the report then does not name the command"
    content = read_inside(folder, NAME, most=LARGEST, fix=fix)
    try:
        return decoded(content)
    except ValueError as error:
        raise UsageError(f"{shown(folder / NAME)} cannot be read ({reason_of(error)}); {fix}") from None
