"""Findings of quantisers with evenly spaced levels, and the numbers of levels that people choose."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.rounding import UNKNOWN, Rounding

USUAL = (2, 3, 4, 5, 8, 9, 10, 16, 17, 32, 33, 64, 65, 100, 128, 129, 256, 257, 512, 1024)


def nearest_usual(levels: float) -> float:
    """A number of levels that people choose where one is near, else the number itself; at least 2."""
    near = min(USUAL, key=lambda usual: abs(math.log((usual - 1) / max(levels - 1, 0.5))))
    return near if is_usual(levels) else max(levels, 2)


def is_usual(levels: float) -> bool:
    """Whether an estimated number of levels is near one that people choose."""
    near = min(USUAL, key=lambda usual: abs(math.log((usual - 1) / max(levels - 1, 0.5))))
    return abs((near - 1) / max(levels - 1, 0.5) - 1) < 0.12


def uniform(bits: int, rest: str, sure: float, rounding: Rounding | None = None) -> Finding:
    """Uniform quantisation.

    Args:
        bits: Bits a value.
        rest: Other settings, as in a SPEC, with a comma in front.
        sure: The confidence.
        rounding: What was seen of the rounding; None for levels that lie between the extremes.
    """
    return Finding(
        spec=f"uniform:bits={bits}{rest}",
        confidence=sure,
        evidence=f"evenly spaced levels, of which {bits} bits are used"
        + (f"; {rounding.evidence}" if rounding is not None else ", from the smallest to the largest value"),
    )


def qsgd(levels: int, norm: str, rounding: Rounding, rest: str) -> Finding:
    """QSGD.

    Args:
        levels: Its magnitudes, zero included.
        norm: The setting `norm`, with a comma in front; empty for the L2 norm.
        rounding: What was seen of the rounding.
        rest: Other settings, as in a SPEC, with a comma in front.
    """
    bits = math.log2(levels) + 1
    equals: tuple[str, ...] = ()
    if rounding is UNKNOWN and norm and bits == int(bits):
        equals = (f"uniform:bits={int(bits)}{rest}: the same levels; how values were rounded to them cannot be told",)
    return Finding(
        spec=f"qsgd:levels={levels}{norm}{rest}",
        confidence=0.95 if rounding is UNKNOWN else rounding.confidence,
        evidence=f"evenly spaced levels, {levels} magnitudes with zero; {rounding.evidence}",
        equals=equals,
    )


def is_one_step(steps: Sequence[float]) -> bool:
    """Whether all tensors have one step, or a whole multiple of it where few levels occur."""
    if len(steps) < 3:
        return False
    least, middle = min(steps), sorted(steps)[len(steps) // 2]
    multiples = all(abs(step / least - round(step / least)) < 2e-3 * round(step / least) for step in steps)
    return middle / least - 1 < 2e-3 and multiples
