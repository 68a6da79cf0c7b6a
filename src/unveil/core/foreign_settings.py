"""The file of a results folder that has its audit's settings, and the lists in it; anybody may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "audit.json"


def list_of(settings: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list of the settings; empty for anything else."""
    value = settings.get(name)
    return value if isinstance(value, list) else []


def tables_of(settings: Mapping[str, Any], *names: str) -> list[Mapping[str, Any]]:
    """Return the tables in some lists of the settings, such as `clients`; what is no table is left out."""
    return [table for name in names for table in list_of(settings, name) if isinstance(table, dict)]
