"""How reports, charts and the terminal write numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unveil.report.statistics import Interval


def bits(value: float) -> str:
    """A size in bits with a decimal prefix: `8.6 Mbit`."""
    for factor, unit in ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if value >= factor:
            return f"{_short(value / factor)} {unit}"
    return f"{_short(value)} bit"


def ratio(value: float) -> str:
    """A compression ratio: `6.4×`."""
    return f"{_short(value)}×" if math.isfinite(value) else "–"


def seconds(value: float) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`."""
    if value < 60:
        return f"{_short(value)} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def decibels(value: float) -> str:
    """A PSNR: `22.4 dB`."""
    return f"{value:z.1f} dB"


def bounds(interval: Interval, digits: int) -> str:
    """An interval without its mean: `[21.9, 22.8]`; `(no interval)` where one picture gives none."""
    if not interval.is_known:
        return "(no interval)"
    return f"[{interval.low:z.{digits}f}, {interval.high:z.{digits}f}]"


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 picture`, `3 pictures`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: list[str]) -> str:
    """An enumeration: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def plain(text: str) -> str:
    """A sentence without the backticks that mark names in it."""
    return text.replace("`", "")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}".removesuffix(".0")
