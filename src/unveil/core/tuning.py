"""What every group of tuned constants shares: a short text of what differs from the defaults."""

from __future__ import annotations

import dataclasses
from typing import Any


def changes_of(tuning: Any) -> str:
    """The fields of a tuning that differ from their defaults, as `(name=value,name=value)`; the `__str__` of each."""
    changed = [
        f"{item.name}={getattr(tuning, item.name)}"
        for item in dataclasses.fields(tuning)
        if getattr(tuning, item.name) != item.default
    ]
    return f"({','.join(changed)})"
