"""The printed form of tuned constants, which names those that differ from their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any


def changes_of(tuning: Any) -> str:
    """Return the fields that differ from their defaults, as `(name=value,name=value)`; every tuning's `__str__`."""
    changed = [
        f"{item.name}={getattr(tuning, item.name)}"
        for item in dataclasses.fields(tuning)
        if getattr(tuning, item.name) != item.default
    ]
    return f"({','.join(changed)})"
