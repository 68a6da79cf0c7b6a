"""Which pictures of a trial are kept in a results folder: all as they are, blurred copies, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from unveil.core.errors import UsageError
from unveil.core.pixels import BLURRED, blurred
from unveil.core.records import Trial

Kept = Literal["none", "blurred", "full"]
"""None, blurred copies, or the pictures themselves. Scores are always those of the pictures themselves."""

_SAID: Mapping[str, str] = {
    "none": "No picture was kept.",
    "blurred": BLURRED,
}


def check_kept(kept: str) -> None:
    """Raise a `UsageError` unless the word is one of `Kept`."""
    if kept not in get_args(Kept):
        raise UsageError(f"audit: expected images of {', '.join(get_args(Kept))}, got {kept!r}; use one of them")


def keeping(trial: Trial, kept: Kept) -> Trial:
    """Return the trial with those pictures that files may show, and with a note that says which.

    Args:
        trial: As `run_trial` returns it, with its pictures in memory.
        kept: Which of them to keep.
    """
    if kept == "full":
        return trial
    pictures = {} if kept == "none" else {name: blurred(images) for name, images in trial.pictures.items()}
    outcomes = {name: replace(outcome, notes=[*outcome.notes, _SAID[kept]]) for name, outcome in trial.outcomes.items()}
    return replace(trial, pictures=pictures, outcomes=outcomes)
