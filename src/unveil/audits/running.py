"""Running an audit: its trials, each kept in the results folder as soon as it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from unveil.audits.executor import Executor, Serial
from unveil.audits.kept_pictures import keeping
from unveil.audits.noting import note_run
from unveil.audits.progress import AuditProgress, Board
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.task import Runnable
from unveil.audits.trial_pictures import whole_trials
from unveil.core.circumstances import changed
from unveil.core.errors import writing
from unveil.core.files import make_folder, shown
from unveil.core.locks import locked
from unveil.core.records import Trial

SERIAL = Serial()

log = logging.getLogger(__name__)


def run(
    audit: Runnable,
    folder: Path,
    on_progress: Callable[[AuditProgress], None] | None = None,
    *,
    command: str = "",
    author: str = "",
    executor: Executor = SERIAL,
) -> list[Trial]:
    """Run the trials that the folder does not hold yet, and append each to the folder as soon as it ends.

    Args:
        audit: What to try.
        folder: The results folder, new or of an earlier run: of this audit, or of one that it extends or is a part of.
        on_progress: Called with every `AuditProgress`; None for no reports.
        command: The command that runs the audit, which the folder keeps for reports; empty from Python.
        author: Who answers for the audit, likewise; empty to name nobody.
        executor: What runs the trials; this process alone writes into the folder.

    Returns:
        All trials of the audit in its order, those of an earlier run included.

    Raises:
        UsageError: The folder or a component cannot be used; finished trials are kept.
    """
    with writing(folder, "--out"):
        make_folder(folder, private=True)
    with locked(folder, fix="wait until it has ended, or choose another folder with --out"):
        prepare(folder, audit.settings())
        tasks = {trial_key(task.settings, task.seed): task for task in audit.tasks()}
        kept = {key: trial for key, trial in _kept(folder).items() if key in tasks}
        todo = {key: task for key, task in tasks.items() if key not in kept}
        if not todo:  # a run that computes nothing is none
            return [kept[key] for key in tasks]
        note_run(folder, command=command, author=author)
        _announce_other_circumstances(folder, kept.values(), executor.versions(audit.device))
        board = None if on_progress is None else Board(todo, done=len(kept), send=on_progress)
        kept.clear()  # memory does not grow with the trials while they run
        with closing(executor(audit, todo, None if board is None else board.report)) as trials:
            for key, trial in trials:
                finished = append(folder, keeping(trial, audit.images))
                if board is not None:
                    board.end(key, finished)
        kept = {trial_key(trial.settings, trial.seed): trial for trial in read_trials(folder)}
        return [kept[key] for key in tasks]


def _announce_other_circumstances(folder: Path, kept: Iterable[Trial], now: Mapping[str, str]) -> None:
    """Log a warning if finished trials were computed in a way in which the rest will not be computed."""
    if other := changed([trial.versions for trial in kept], now):
        log.warning(
            "%s: finished trials were computed under other circumstances (%s), which can change scores by more than "
            "the last digits; they are kept, and another folder with --out computes all of them alike",
            shown(folder),
            other,
        )


def _kept(folder: Path) -> dict[str, Trial]:
    """The finished trials of a folder by key, without those whose pictures are missing or damaged."""
    whole = whole_trials(folder, read_trials(folder), fate="these trials are run again")
    return {trial_key(trial.settings, trial.seed): trial for trial in whole}
