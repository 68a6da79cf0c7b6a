"""Values of one magnitude a tensor: signs, TernGrad, or a quantiser with one level beside zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.grid import Grid
from unveil.inspection.fingerprint.naming import is_one_step, nearest_usual, qsgd, uniform
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.rounding import UNKNOWN, rounding_of, signal_energy

CLEAR = 0.95  # confidence in rounding to the nearest, for a quantiser of one level, which is seldom used
MATRICES = 6  # tensors whose entries are sized up
MOST_OF_NORM, RISE = 8.0, 2.5  # entries sent over sqrt(n): the most, and the most over the median
TYPICAL = 0.75  # mean over root mean square of the entries of a tensor without zeros
MISSED = 0.8  # square root of the share of the energy that stands above the noise of rounding to one level, as measured


def one_level(received: Received, grids: Mapping[str, Grid], order: Sequence[str], *, sparse: bool) -> Finding:
    """Signs, TernGrad, or one level of another quantiser."""
    steps = {n: grids[n].step for n in order}
    if all(abs(step - 1) < max(1e-5, 2 * received.relative) for step in steps.values()):
        return Finding(spec="sign", confidence=0.99, evidence="every value is 1, -1 or 0")
    large = [n for n in order if received.sizes[n] >= 32]
    over = [received.counts[n] / math.sqrt(received.sizes[n]) for n in large]
    middle = sorted(over)[len(over) // 2] if over else math.inf
    if not sparse and over and max(over) < MOST_OF_NORM and max(over) < RISE * middle:
        # A level that is a share of the norm: of n entries a multiple of sqrt(n) is sent, whatever n is.
        upper = sorted(over)[(3 * len(over)) // 4]
        return qsgd(round(nearest_usual(upper / TYPICAL + 1)), "", UNKNOWN, "")
    kept = _kept(received)
    if sparse or kept > 0.9:
        return Finding(
            spec="sign:scale=true",
            confidence=0.97,
            evidence=f"all values of a tensor have one magnitude, and {kept:.0%} of the rows and columns in use are "
            "without zeros",
        )
    same = is_one_step(list(steps.values()))
    rounding = UNKNOWN if sparse else rounding_of(received, grids)
    if rounding.is_nearest and rounding.confidence > CLEAR:
        return uniform(2, ",scope=update" if same else "", rounding.confidence, rounding)
    if same:
        return qsgd(2, ",norm=max", rounding, ",scope=update")
    energies = {n: _mean_square(received, n, steps[n]) for n in large[:MATRICES]}
    energies = {n: size for n, size in energies.items() if size > 0}
    clips = [MISSED / math.sqrt(size) for size in energies.values()]
    # In units of the tensor's own standard deviation the level is TernGrad's clip, or as far as the largest entry lies.
    middle = sorted(clips)[len(clips) // 2] if clips else math.inf
    evidence = f"one level, about {middle:.2g} standard deviations of a tensor's entries large"
    if middle < 3.8:
        near = min((2.0, 2.5, 3.0), key=lambda clip: abs(clip - middle))
        clip = near if abs(near / middle - 1) < 0.15 else middle
        spec = "ternary" if clip == 2.5 else f"ternary:clip={clip:.2g}"
        return Finding(spec=spec, confidence=0.9, evidence=evidence)
    return Finding(
        spec="qsgd:levels=2,norm=max",
        confidence=0.9,
        evidence=evidence,
        equals=("ternary:clip=none: the same by definition",),
    )


def _mean_square(received: Received, name: str, step: float) -> float:
    """Mean square of a tensor's entries before they were rounded to one level, in squared steps; 0 if not known.

    Rounding at random makes errors that are independent; so what two neighbouring entries have in common is signal.
    """
    values = received.values[name] / step
    return signal_energy(values.flatten(1)) / values.numel() if values.dim() >= 2 else 0.0


def _kept(received: Received) -> float:
    """Share of entries that are not zero in rows and columns in use; the median over large tensors."""
    shares = []
    for name in received.by_size:
        mask = received.live[name]
        if mask.dim() >= 2:
            mask = mask.flatten(1)
            mask = mask[mask.any(1)]
            mask = mask[:, mask.any(0)]
        if received.sizes[name] >= 32:
            shares.append(float(mask.double().mean()))
    return sorted(shares)[len(shares) // 2] if shares else 0.0
