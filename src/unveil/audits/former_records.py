"""Facts of a trial that records of former versions have in their texts alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unveil.core.errors import UsageError
from unveil.obfuscations.layers import Layers

COHORT = re.compile(r"(?P<name>.*) \(cohort (?P<clients>\d+)\)(?P<batch>( \d+)?)", re.DOTALL)
"""The name of a client that has cohorts of several sizes."""


def completed(record: Any) -> Any:
    """Return a record of `results.jsonl` with `cohort_of` and `layers`, told from its settings where it has none.

    Args:
        record: The JSON of a line, which anybody may have written; what is no object comes back as it is.
    """
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        return record
    return {"cohort_of": _cohort_of(settings), "layers": _layers(settings)} | record


def _cohort_of(settings: Mapping[Any, Any]) -> str:
    """The client's name without the size of its cohort; empty where it has none."""
    found = COHORT.fullmatch(str(settings.get("client", "")))
    return found["name"] + found["batch"] if found and found["clients"] == settings.get("cohort", "1") else ""


def _layers(settings: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The choice of layers; None where anything else changes the update too."""
    name, _, send = str(settings.get("obfuscation", "")).partition(":send=")
    if name != Layers.name or "+" in send:
        return None
    try:
        return asdict(Layers(send=send).choice)
    except UsageError:
        return None
