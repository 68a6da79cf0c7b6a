"""Joining results folders of one audit: the parts of `--shard`, or of machines that each ran some of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unveil.audits.folder_settings import joined, read_settings, unlike
from unveil.audits.noting import note_runs, read_runs
from unveil.audits.order import in_order
from unveil.audits.results import append, prepare, read_trials, trial_key
from unveil.audits.trial_pictures import copy_pictures, whole_trials
from unveil.core.circumstances import used
from unveil.core.errors import UsageError, writing
from unveil.core.files import is_folder, make_folder, shown
from unveil.core.foreign_settings import NAME as SETTINGS
from unveil.core.locks import locked
from unveil.core.records import Trial

FIX = "give the --out folder of an audit"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A finished trial and the folder that holds it."""

    folder: Path
    trial: Trial


def merge(folders: Sequence[Path], out: Path) -> list[Trial]:
    """Put the trials of several results folders into one; interrupted, the same call goes on.

    Everything is read and compared before anything is written. A trial whose pictures are missing or damaged is left
    out with a warning, and trials that were computed under other circumstances are announced.

    Args:
        folders: Results folders of audits with the same settings; their lists may differ as in `settings_after`.
        out: The folder to write, new or of an earlier merge or audit, whose trials count too.

    Returns:
        All trials of `out`, in the order of the audit.

    Raises:
        UsageError: A folder cannot be read or written, is in use, or holds the results of another audit; or a trial
            stands in two folders with different scores.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    for folder in folders:
        if not is_folder(folder):
            raise UsageError(f"{shown(folder)} is not a folder; {FIX}")
        if folder.resolve() == out.resolve():
            raise UsageError(f"{shown(folder)} is also the folder of --out, whose trials count anyway; leave it out")
    there = [out] if (out / SETTINGS).is_file() else []
    with ExitStack() as locks:
        for folder in (*folders, *there):
            locks.enter_context(locked(folder, fix="wait until it has ended"))
        settings = _settings_of([*there, *folders])
        found = _trials_of([*there, *folders])
        if not there:
            with writing(out, "--out"):
                make_folder(out, private=True)
            locks.enter_context(locked(out, fix="wait until it has ended"))
        prepare(out, settings)
        _announce_other_versions([one.trial for one in found.values()])
        runs = [run for folder in (*there, *folders) for run in read_runs(folder)]
        note_runs(out, sorted(dict.fromkeys(runs), key=lambda run: run.date))
        folder_of = {key: one.folder for key, one in found.items()}
        for trial in in_order([one.trial for one in found.values()], settings):
            key = trial_key(trial.settings, trial.seed)
            if folder_of[key] != out:
                copy_pictures(folder_of[key], out, key, trial)
                append(out, trial)
        return in_order(read_trials(out), settings)


def _settings_of(folders: Sequence[Path]) -> dict[str, Any]:
    """The settings of all folders together; raises a `UsageError` that names two that do not fit."""
    first, *others = folders
    settings = read_settings(first, fix=FIX)
    for folder in others:
        more = read_settings(folder, fix=FIX)
        if (differs := unlike(settings, more)) is not None:
            key, one, other = differs
            raise UsageError(
                f"{shown(first)} and {shown(folder)} hold the results of different audits: {key} is {one} in the first "
                f"and {other} in the second; merge the folders of one audit"
            )
        settings = joined(settings, more)
    return settings


def _trials_of(folders: Sequence[Path]) -> dict[str, _Found]:
    """The finished trials of all folders by key, without those whose pictures are missing or damaged."""
    found: dict[str, _Found] = {}
    for folder in folders:
        for trial in whole_trials(folder, read_trials(folder), fate="these trials are left out"):
            key = trial_key(trial.settings, trial.seed)
            if key in found:
                _refuse_other_scores(found[key], _Found(folder=folder, trial=trial))
            else:
                found[key] = _Found(folder=folder, trial=trial)
    return found


def _refuse_other_scores(one: _Found, other: _Found) -> None:
    """Raise a `UsageError` if a trial has other scores, or other controls, in one folder than in another."""
    if _scores(one.trial) != _scores(other.trial):
        given = one.trial.settings
        what = ", ".join(given[key] for key in ("client", "obfuscation", "attack") if key in given)
        raise UsageError(
            f"{shown(what)}, seed {one.trial.seed}, has different scores in {shown(one.folder)} and "
            f"{shown(other.folder)}; leave one of the two folders out, or delete the trial's line in one of them"
        )


def _scores(trial: Trial) -> str:
    """All scores of a trial as text, in which NaN is like NaN."""
    scores = {name: [dict(outcome.scores), dict(outcome.controls)] for name, outcome in trial.outcomes.items()}
    return json.dumps(scores, sort_keys=True)


def _announce_other_versions(trials: Sequence[Trial]) -> None:
    """Log a warning that names the versions and circumstances in which the trials differ."""
    values = used(trial.versions for trial in trials)
    if differing := [f"{name} {' and '.join(some)}" for name, some in values.items() if len(some) > 1]:
        log.warning(
            "not all trials were computed alike (%s), which can change scores by more than the last digits",
            shown("; ".join(differing), 1000),
        )
