"""What a setting's number may be: refused with one sentence where a computation could only overflow or never end."""

from __future__ import annotations

import math

from unveil.core.errors import UsageError

SMALL, LARGE = 1e-30, 1e30
"""Positive settings lie between these, well inside float32, so that their products with an update do too."""


def positive(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless ``SMALL <= value <= LARGE``.

    Args:
        who: The component, such as `Clip`.
        name: The setting.
        value: Its value.
        hint: What to do about it.
    """
    if not value > 0:
        raise UsageError(f"{who}: expected {name} > 0, got {_shown(value)}; {hint}")
    if not SMALL <= value <= LARGE:
        raise UsageError(f"{who}: expected {SMALL:g} <= {name} <= {LARGE:g}, got {_shown(value)}; {hint}")


def not_negative(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless the value is 0 or as in `positive`."""
    if not value >= 0:
        raise UsageError(f"{who}: expected {name} >= 0, got {_shown(value)}; {hint}")
    if value:
        positive(who, name, value, hint)


def share(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless the value is a share of a whole, greater than 0 and at most 1."""
    if not 0 < value <= 1:
        raise UsageError(f"{who}: expected 0 < {name} <= 1, got {_shown(value)}; {hint}")
    positive(who, name, value, hint)


def whole(who: str, name: str, value: int, least: int, most: int, hint: str) -> None:
    """Raise a `UsageError` unless ``least <= value <= most``."""
    if value < least:
        raise UsageError(f"{who}: expected {name} >= {least}, got {_shown(value)}; {hint}")
    if value > most:
        raise UsageError(f"{who}: expected {name} <= {most}, got {_shown(value)}; {hint}")


def _shown(value: float) -> str:
    """The number in a sentence; the digits of one with thousands of them help nobody."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of about {math.floor(value.bit_length() * math.log10(2)) + 1} digits"
    return f"{value:g}" if isinstance(value, float) else str(value)
