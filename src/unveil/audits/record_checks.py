"""Whether a trial that was read from a file can be one: a file may have been changed, and its types say only half."""

from __future__ import annotations

import math
from collections.abc import Mapping

from unveil.core.records import Trial

LARGEST_COUNT = 2**63  # bits, steps
LARGEST_NUMBER = 1e15  # scores, seconds, MiB; sums of squares of it are far from what a float holds
LONGEST_LIST = 100_000
LONGEST_TEXT = 2**20


def refuse_nonsense(trial: Trial) -> None:
    """Look at what a report computes with.

    Raises:
        ValueError: A number that no trial has, or lists of one trial that do not go together; its message names it.
    """
    if trial.seed < 0:
        raise ValueError(f"seed is {trial.seed}, not a number of at least 0")
    for name in ("wire_bits", "raw_bits", "iterations"):
        if not 0 <= getattr(trial, name) < LARGEST_COUNT:
            raise ValueError(f"{name} is not a number from 0 to 2^63")
    for name, value in (("seconds", trial.seconds), ("peak_mib", trial.peak_mib)):
        if value is not None and not 0 <= value <= LARGEST_NUMBER:
            raise ValueError(f"{name} is not a number of at least 0")
    for name in ("losses", "originals", "images", "labels", "assumptions", "notes", "confidence"):
        if len(getattr(trial, name)) > LONGEST_LIST:
            raise ValueError(f"{name} has more than {LONGEST_LIST} entries")
    texts = [*trial.assumptions, *trial.notes, *trial.versions.values(), trial.stop]
    if any(len(text) > LONGEST_TEXT for text in texts):
        raise ValueError(f"a text in it has more than {LONGEST_TEXT} characters")
    tables = {"scores": trial.scores, "floor": trial.floor}
    tables |= {f"controls.{name}": table for name, table in trial.controls.items()}
    for name, table in tables.items():
        _check_scores(name, table, trial.scores)
    pictures = {len(values) for values in trial.scores.values()}
    if trial.confidence and pictures and len(trial.confidence) not in pictures:
        raise ValueError(f"confidence has {len(trial.confidence)} values, and the scores have {max(pictures)}")
    if trial.enhanced is not None and trial.enhanced.before is not None:
        refuse_nonsense(trial.enhanced.before)


def _check_scores(name: str, table: Mapping[str, list[float]], scores: Mapping[str, list[float]]) -> None:
    for metric, values in table.items():
        if not values or len(values) > LONGEST_LIST:
            raise ValueError(f"{name}.{metric} has {len(values)} values, not one a picture")
        if metric in scores and len(values) != len(scores[metric]):
            raise ValueError(f"{name}.{metric} has {len(values)} values, and scores.{metric} has {len(scores[metric])}")
        if any(math.isfinite(value) and abs(value) > LARGEST_NUMBER for value in values):
            raise ValueError(f"{name}.{metric} holds a number beyond {LARGEST_NUMBER:g}")
