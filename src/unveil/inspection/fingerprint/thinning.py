"""Entries left out at random: one chance to be sent for every entry, also where the network has zeros of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from unveil.inspection.fingerprint.received import Received

ENTRIES = 512  # of a tensor that can say something
PRECISE = 0.2  # relative standard error beyond which a tensor's estimate is not used
APART = 4.0  # standard errors
CLOSE = 0.03  # relative difference of estimates that are one however precise they are
MANY = 8.0  # entries of a row on average, from which its number is nearly normal
QUARTILE = 0.6745  # of the standard normal distribution
SEEN = 5.0  # entries of an input on average
MOST = 0.9


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A chance to be sent.

    Args:
        chance: In (0, 1).
        error: Its standard error.
        tensors: How many tensors show it.
        is_least: The tensors differ by more than chance, so the network has zeros of its own among them, and the chance
            may be somewhat larger.
    """

    chance: float
    error: float
    tensors: int
    is_least: bool


def thinned(received: Received) -> Rate | None:
    """The chance to be sent that most tensors share, or None."""
    found = [rate for n in received.values if (rate := _rate(received, n)) is not None]
    if len(found) < 2:
        return None
    # Zeros of the network's own make the rate lower and never higher: the highest that two tensors share is taken.
    best: list[tuple[float, float]] = []
    for middle, _ in sorted(found, reverse=True):
        best = [(p, e) for p, e in found if abs(p - middle) < max(APART * e, CLOSE * middle)]
        if len(best) >= 2:
            break
    if len(best) < 2:
        return None
    weights = [e**-2 for _, e in best]
    chance = sum(w * p for w, (p, _) in zip(weights, best, strict=True)) / sum(weights)
    if chance > MOST:
        return None
    excess = sum(w * (p - chance) ** 2 for w, (p, _) in zip(weights, best, strict=True)) / len(best)
    lower = any(p < chance - APART * e for p, e in found)
    return Rate(chance=chance, error=sum(weights) ** -0.5, tensors=len(best), is_least=excess > 1.5 or lower)


def _rate(received: Received, name: str) -> tuple[float, float] | None:
    """The chance of an entry of one tensor and its standard error; None where it says nothing.

    Outputs and inputs of nothing but zeros may be the network's own. So only inputs and then outputs with an entry are
    counted, and the numbers of these follow a binomial distribution without its zero.
    """
    if received.values[name].dim() < 2 or received.sizes[name] < ENTRIES:
        return None
    mask = received.live[name].flatten(2) if received.values[name].dim() > 2 else received.live[name][..., None]
    counts = mask.sum((0, 2))
    inputs = counts > 0
    if float(counts[inputs].double().mean()) < SEEN:  # inputs in use would be missed by chance
        return None
    return _truncated(mask[:, inputs].flatten(1))


def _truncated(mask: Bool[Tensor, "rows columns"]) -> tuple[float, float] | None:
    """The chance p for which rows with an entry have ``columns p / (1 - (1 - p)^columns)`` of them on average."""
    counts = mask.sum(1)
    counts = counts[counts > 0].double()
    columns = mask.shape[1]
    if len(counts) < 8:
        return None
    mean = float(counts.mean())
    if mean >= MANY:
        # Rows differ where some of their inputs are zero for every example, so the upper quartile is read.
        upper = float(counts.quantile(0.75))
        root = (-QUARTILE + math.sqrt(QUARTILE**2 + 4 * upper)) / 2
        return root**2 / columns, 1.4 * root / math.sqrt(len(counts)) / columns
    low, high = 1e-9, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _expected(middle, columns) < mean else (low, middle)
    # The slope of the mean turns the error of the mean into that of the chance.
    slope = (_expected(low * 1.001, columns) - _expected(low, columns)) / (low * 1e-3)
    error = float(counts.std()) / math.sqrt(len(counts)) / max(slope, 1e-12)
    return (low, max(error, 1e-6)) if low > 0 and error < PRECISE * low else None


def _expected(chance: float, columns: int) -> float:
    """The mean of a binomial number that is not zero."""
    return columns * chance / max(-math.expm1(columns * math.log1p(-min(chance, 1 - 1e-12))), 1e-300)
