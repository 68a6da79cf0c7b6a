"""Checks of numbers in settings, which refuse values with which a computation would overflow or never end."""

from __future__ import annotations

import math

from unveil.core.errors import UsageError

SMALL, LARGE = 1e-30, 1e30
"""Smallest and largest positive setting; both are far inside the range of float32, so that products with an update are
in that range too."""


def positive(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless ``SMALL <= value <= LARGE``.

    Args:
        who: Name of the component for the message, such as `Clip`.
        name: Name of the setting.
        value: Its value.
        hint: End of the message: what to do.
    """
    if not value > 0:
        raise UsageError(f"{who}: expected {name} > 0, got {_shown(value)}; {hint}")
    if not SMALL <= value <= LARGE:
        raise UsageError(f"{who}: expected {SMALL:g} <= {name} <= {LARGE:g}, got {_shown(value)}; {hint}")


def not_negative(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless the value is 0 or passes `positive`."""
    if not value >= 0:
        raise UsageError(f"{who}: expected {name} >= 0, got {_shown(value)}; {hint}")
    if value:
        positive(who, name, value, hint)


def share(who: str, name: str, value: float, hint: str) -> None:
    """Raise a `UsageError` unless the value is at least `SMALL` and at most 1."""
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
    """Return the number as text; of an integer of 10^18 or more only the number of its digits."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of about {math.floor(value.bit_length() * math.log10(2)) + 1} digits"
    return f"{value:g}" if isinstance(value, float) else str(value)
