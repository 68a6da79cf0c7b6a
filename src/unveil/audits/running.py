"""Running an audit: trial after trial, each kept in the results folder as soon as it ends."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from unveil.audits.kept_pictures import keeping
from unveil.audits.noting import note_run
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.task import Runnable
from unveil.audits.trial import versions_on
from unveil.audits.trial_pictures import is_whole
from unveil.core.circumstances import changed
from unveil.core.errors import writing
from unveil.core.files import make_folder, shown
from unveil.core.locks import locked
from unveil.core.records import Trial
from unveil.core.watch import Progress, Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AuditProgress:
    """How far an audit is. Sent when a trial starts, after each step of its attack, and when the trial ends.

    Args:
        done: Number of finished trials, those of an earlier run included.
        total: Number of trials in the audit.
        settings: The settings of the present trial.
        seed: The seed of the present trial.
        step: The last step of its attack; None before the first.
        trial: The finished trial; None until it has ended.
    """

    done: int
    total: int
    settings: Mapping[str, str]
    seed: int
    step: Progress | None = None
    trial: Trial | None = None


def run(
    audit: Runnable,
    folder: Path,
    on_progress: Callable[[AuditProgress], None] | None = None,
    *,
    command: str = "",
    author: str = "",
) -> list[Trial]:
    """Run the trials that the folder does not hold yet, and append each to the folder as soon as it ends.

    Args:
        audit: What to try.
        folder: The results folder, new or of an earlier run: of this audit, or of one that it extends or is a part of.
        on_progress: Called with every `AuditProgress`; None for no reports.
        command: The command that runs the audit, which the folder keeps for reports; empty from Python.
        author: Who answers for the audit, likewise; empty to name nobody.

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
        if len(kept) < len(tasks):  # a run that computes nothing is none
            note_run(folder, command=command, author=author)
            _announce_other_circumstances(folder, kept.values(), audit.device)
        for key, task in tasks.items():
            if key in kept:
                continue

            progress = AuditProgress(done=len(kept), total=len(audit), settings=task.settings, seed=task.seed)
            report = on_progress or (lambda progress: None)
            report(progress)
            trial = task.run(_watch(report, progress) if on_progress else None)
            trial = append(folder, keeping(trial, audit.images))
            kept[key] = trial
            report(dataclasses.replace(progress, done=len(kept), trial=trial))
    return [kept[key] for key in tasks]


def _announce_other_circumstances(folder: Path, kept: Iterable[Trial], device: torch.device) -> None:
    """Log a warning if finished trials were computed in a way in which this process will not compute the rest."""
    if other := changed([trial.versions for trial in kept], versions_on(device)):
        log.warning(
            "%s: finished trials were computed under other circumstances (%s), which can change scores by more than "
            "the last digits; they are kept, and another folder with --out computes all of them alike",
            shown(folder),
            other,
        )


def _kept(folder: Path) -> dict[str, Trial]:
    """The finished trials of a folder by key, without those whose pictures are missing or damaged."""
    trials = {trial_key(trial.settings, trial.seed): trial for trial in read_trials(folder)}
    whole = {key: trial for key, trial in trials.items() if is_whole(folder, trial)}
    if len(whole) < len(trials):
        log.warning(
            "%s: pictures of %d of %d finished trials are missing or damaged; these trials are run again",
            shown(folder),
            len(trials) - len(whole),
            len(trials),
        )
    return whole


def _watch(report: Callable[[AuditProgress], None], progress: AuditProgress) -> Watch:
    """A watch that reports each step of an attack as the progress of the audit."""
    return lambda step: report(dataclasses.replace(progress, step=step))
