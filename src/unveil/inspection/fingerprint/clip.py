"""Clipping: the norm of the whole update is a number as people write them."""

from __future__ import annotations

import math

import torch

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import FLOAT32, Received

LUCK = 4e-3  # chance beyond which a plain number proves nothing
DIGITS = 3  # of the norms that are taken for somebody's choice


def clipped(received: Received) -> Finding | None:
    """Find clipping as the last stage, or None."""
    norm = received.norm
    if not norm:
        return None
    every = torch.cat([t.flatten() for t in received.values.values()]) / norm
    # Rounded entries are off in both directions, and most of their errors cancel out in the norm.
    moved = max(float(t.max()) for t in received.absolute.values())
    allowed = 4 * FLOAT32 + 1.5 * received.relative * float(every.pow(4).sum().sqrt()) + moved / norm
    for digits in range(1, DIGITS + 1):
        number = float(f"{norm:.{digits}g}")
        chance = 9 * 10 ** (digits - 1) * 2 * allowed / math.log(10)
        if abs(norm / number - 1) <= allowed and chance < LUCK:
            return Finding(
                spec=f"clip:norm={number:g}",
                confidence=1 - 10 * chance,
                evidence=f"the update's norm is {norm:.8g}; the chance to be as near to a number of {digits} digits is "
                f"{chance:.1g}",
                equals=("none: an update of this length that nobody clipped",),
            )
    return None
