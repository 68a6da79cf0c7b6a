"""Noting in a results folder who ran an audit into it, when and with which command."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from unveil.core.errors import UsageError
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
    before = read_runs(folder)
    run = Run(command=command, date=datetime.date.today().isoformat(), author=author)
    if run not in before:
        write_whole(folder / NAME, encoded([*before, run]), private=True)


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
