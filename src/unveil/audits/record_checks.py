"""Checks of a trial that was read from a file: its types may fit although its numbers are nonsense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unveil.core.records import ATTACK, ENHANCED, Plausibility, ScoredOutcome, Trial

LARGEST_COUNT = 2**63  # bits, steps
LARGEST_NUMBER = 1e15  # scores, seconds, MiB: sums of their squares do not overflow a float
LONGEST_LIST = 100_000
LONGEST_TEXT = 2**16  # characters: of a SPEC, a name, a sentence
MOST_DIGITS = 15  # decimals of a metric


def refuse_nonsense(trial: Trial) -> None:
    """Check every value that a report computes with.

    Raises:
        ValueError: A number is out of range, or two lists have different lengths; the message names the field.
    """
    if trial.seed < 0:
        raise ValueError(f"seed is {trial.seed}, not a number of at least 0")
    if ATTACK not in trial.outcomes or not {ATTACK, ENHANCED} >= set(trial.outcomes):
        raise ValueError(f"outcomes are {', '.join(trial.outcomes) or 'none'}, not {ATTACK} and perhaps {ENHANCED}")
    for name in ("wire_bits", "raw_bits", "iterations"):
        if not 0 <= getattr(trial, name) < LARGEST_COUNT:
            raise ValueError(f"{name} is not a number from 0 to 2^63")
    if trial.peak_mib is not None and not 0 <= trial.peak_mib <= LARGEST_NUMBER:
        raise ValueError("peak_mib is not a number of at least 0")
    for name in ("losses", "originals"):
        _check_list(name, getattr(trial, name))
    for text in (
        *trial.settings,
        *trial.settings.values(),
        *trial.versions,
        *trial.versions.values(),
        trial.family,
        trial.without_noise,
        trial.cohort_of,
        trial.rounds_of,
        *(trial.layers.named if trial.layers else ()),
    ):
        _check_text(text)
    for name in (*trial.metrics, *trial.blind):
        _check_text(name)
    if len(trial.checksums) > LONGEST_LIST:
        raise ValueError(f"checksums has more than {LONGEST_LIST} entries")
    for name, facts in trial.metrics.items():
        if facts.name != name or not 0 <= facts.digits <= MOST_DIGITS:
            raise ValueError(f"metrics.{name} does not have that name, or digits from 0 to {MOST_DIGITS}")
        for text in (facts.name, facts.title, facts.unit, facts.description):
            _check_text(text)
    for name, outcome in trial.outcomes.items():
        _check_outcome(f"outcomes.{name}", outcome)
    _check_privacy(trial)
    _check_scores("blind", trial.blind, trial.outcomes[ATTACK].scores)


def _check_privacy(trial: Trial) -> None:
    _check_list("privacy", trial.privacy)
    _check_list("chance", trial.chance)
    if not all(0 <= value <= 1 for value in trial.chance):
        raise ValueError("chance is not a list of numbers from 0 to 1")
    for at, stated in enumerate(trial.privacy):
        where = f"privacy.{at}"
        if not 0 < stated.delta < 1 or not 0 < stated.rate <= 1 or min(stated.rounds, stated.releases) < 1:
            raise ValueError(f"{where} does not have a delta and a rate up to 1, and rounds and releases of at least 1")
        if max(stated.rounds, stated.releases) >= LARGEST_COUNT:
            raise ValueError(f"{where}.rounds or releases is not a number below 2^63")
        for name in ("epsilon", "clip", "noise", "sensitivity", "strength", "claimed"):
            value = getattr(stated, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{where}.{name} is not a number of at least 0")
        _check_list(f"{where}.assumptions", stated.assumptions)
        for text in (stated.reason, stated.accountant, *stated.assumptions):
            _check_text(text)


def _check_outcome(where: str, outcome: ScoredOutcome) -> None:
    if not 0 <= outcome.seconds <= LARGEST_NUMBER:
        raise ValueError(f"{where}.seconds is not a number of at least 0")
    for name in ("images", "labels", "assumptions", "notes", "confidence"):
        _check_list(f"{where}.{name}", getattr(outcome, name))
    for text in (*outcome.assumptions, *outcome.notes, *outcome.scores, *outcome.controls):
        _check_text(text)
    tables = {"scores": outcome.scores, **{f"controls.{name}": table for name, table in outcome.controls.items()}}
    for name, table in tables.items():
        _check_scores(f"{where}.{name}", table, outcome.scores)
    if outcome.plausibility is not None:
        _check_plausibility(f"{where}.plausibility", outcome.plausibility)
    pictures = {len(values) for values in outcome.scores.values()}
    if outcome.confidence and pictures and len(outcome.confidence) not in pictures:
        raise ValueError(f"{where}.confidence has {len(outcome.confidence)} values, and scores have {max(pictures)}")


def _check_plausibility(where: str, found: Plausibility) -> None:
    for name in ("explained", "control"):
        if not abs(getattr(found, name)) <= LARGEST_NUMBER:
            raise ValueError(f"{where}.{name} is not a number")
    _check_scores(f"{where}.rehearsal", found.rehearsal, found.rehearsal_blind)
    _check_scores(f"{where}.rehearsal_blind", found.rehearsal_blind, found.rehearsal)


def _check_list(name: str, values: Sequence[object]) -> None:
    if len(values) > LONGEST_LIST:
        raise ValueError(f"{name} has more than {LONGEST_LIST} entries")


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"a text in it has more than {LONGEST_TEXT} characters")


def _check_scores(name: str, table: Mapping[str, list[float]], scores: Mapping[str, list[float]]) -> None:
    for metric, values in table.items():
        if not values or len(values) > LONGEST_LIST:
            raise ValueError(f"{name}.{metric} has {len(values)} values, not one a picture")
        if metric in scores and len(values) != len(scores[metric]):
            raise ValueError(f"{name}.{metric} has {len(values)} values, and scores.{metric} has {len(scores[metric])}")
        if any(math.isfinite(value) and abs(value) > LARGEST_NUMBER for value in values):
            raise ValueError(f"{name}.{metric} holds a number beyond {LARGEST_NUMBER:g}")
