"""The settings of a results folder: which audits may share it, and the settings of all of them together.

The trials of an audit are a product of lists, and each trial has its own key. So an audit with more of a list, or with
less, may use the same folder: what is there is not run again. Everything else must be the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from unveil.core.errors import UsageError
from unveil.core.files import MIB, reason_of, shown
from unveil.core.foreign_settings import NAME as SETTINGS
from unveil.core.inside import read_inside

LARGEST = 64 * MIB  # of audit.json

LISTS = ("obfuscations", "attacks", "seeds", "threat_models")
"""Lists that may differ from one audit of a folder to the next."""

NAMED = ("clients", "recordings")
"""Lists of tables that may differ too; two tables of one name must be the same."""

TABLES = ("arithmetic",)
"""Tables that may have other keys; the values of a key that both have must be the same."""


def settings_after(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the folder once an audit has used it, too; None if they do not change.

    Args:
        folder: A results folder that has settings.
        settings: Those of the audit, plain JSON.

    Raises:
        UsageError: The folder's settings cannot be read, or something that must be the same is not; the message names
            it.
    """
    before = read_settings(folder, fix=f"delete {shown(folder)}, or choose another with --out")
    now = json.loads(json.dumps(settings))
    if (differs := unlike(before, now)) is not None:
        key, was, is_now = differs
        raise UsageError(
            f"{folder} holds the results of other settings: {key} was {was}, now it is {is_now}; choose another folder "
            "with --out, or delete this one"
        )
    after = joined(before, now)
    return None if after == before else after


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first setting in which two audits differ that may not share a folder: its name, and both values; else None.

    Args:
        one: The settings of an audit, plain JSON.
        other: Those of another one.
    """
    before, now = _comparable(one, other), _comparable(other, one)
    for key in [*now, *before]:
        if now.get(key) != before.get(key):
            was, is_now = (shown(str(settings.get(key, "absent"))) for settings in (before, now))
            return shown(key), was, is_now
    return None


def joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of two audits together; of a list what is new comes last."""
    return {**before, **{key: _joined(before.get(key), now[key]) for key in now}}


def read_settings(folder: Path, *, fix: str) -> dict[str, Any]:
    """The settings of a results folder.

    Args:
        folder: The results folder.
        fix: The end of every message: what to do.

    Raises:
        UsageError: They are missing or cannot be read.
    """
    try:
        settings = from_json(read_inside(folder, SETTINGS, most=LARGEST, fix=fix))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{shown(folder / SETTINGS)} cannot be read ({reason_of(error)}); {fix}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{shown(folder / SETTINGS)} holds no settings; {fix}")
    return settings


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be the same in both, as one level of dotted keys."""
    kept = {key: value for key, value in one.items() if not (key in LISTS and isinstance(value, list))}
    for key in (*NAMED, *TABLES):
        mine, theirs = _by_name(kept.get(key)), _by_name(other.get(key))
        if mine is not None and theirs is not None:
            kept[key] = {name: value for name, value in mine.items() if name in theirs}
    return flat(kept)


def _by_name(value: Any) -> dict[str, Any] | None:
    """A list of named tables as a table of them, and a table as it is; None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
        return {item["name"]: item for item in value}
    return None


def _joined(before: Any, now: Any) -> Any:
    """What both have: of a list what is new comes last."""
    if isinstance(before, list) and isinstance(now, list):
        return [*before, *(item for item in now if item not in before)]
    if isinstance(before, dict) and isinstance(now, dict):
        return {**before, **now}
    return now


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as one level of dotted keys."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = {str(number): item for number, item in enumerate(value)}.items()
    else:
        return {prefix: value}
    return {key: leaf for name, item in pairs for key, leaf in flat(item, f"{prefix}.{name}".strip(".")).items()}
