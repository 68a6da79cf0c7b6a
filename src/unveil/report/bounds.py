"""The bound beside the attack: how often it found a picture, and how often theory lets any attack find it.

A picture's share in the update is at most `strength` standard deviations of the noise long. So whatever an attack
makes of the update happens at most so much more often than without that picture in it, and without it the picture is
found first in its gallery by chance alone. An attack that knows the label does no better than chance among the
pictures of that label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unveil.core.errors import one_line
from unveil.metrics.identity import FOUND_FIRST
from unveil.privacy.gaussian import success_bound
from unveil.report.rows import Row
from unveil.report.statistics import Interval, hoeffding_lower

SURE = 1 - 1e-6
"""Confidence of the lower end that must not lie above the bound: one false alarm in a million rows."""


class ContradictionError(Exception):
    """Raised where an attack found more than theory allows any attack: a defect of unveil, exit code 3."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What theory allows, beside what was measured; shares of the pictures, in [0, 1].

    Args:
        chance: Share found first without the update, mean over the pictures.
        allowed: Largest expected share found first by any attack on this update.
        measured: Share that this attack found first, with its 95 % interval.
        at_least: Lower end of the measured share with the confidence `SURE`.
    """

    chance: float
    allowed: float
    measured: Interval
    at_least: float

    @property
    def contradicts(self) -> bool:
        """Whether more was found than is allowed, beyond what chance explains."""
        return self.at_least > self.allowed


def strength_of(row: Row) -> float | None:
    """Return how far one picture moves the update at most, over the noise; None where nothing bounds it."""
    return min((s.strength for s in row.privacy if s.strength is not None), default=None)


def bound_of(row: Row) -> Bound | None:
    """Return the bound of a row; None without clipped noise, or without a gallery of the pictures' own source."""
    strength, score = strength_of(row), row.scores.get(FOUND_FIRST.name)
    if strength is None or score is None or not row.chance:
        return None
    chances = [row.chance[place] for place in score.by_picture if place < len(row.chance)]
    if len(chances) < len(score.by_picture):
        return None
    values = list(score.by_picture.values())
    return Bound(
        chance=fmean(chances),
        allowed=fmean(success_bound(chance, strength) for chance in chances),
        measured=score.mean,
        at_least=hoeffding_lower(fmean(values), len(values), confidence=SURE),
    )


def refuse_contradictions(rows: Sequence[Row]) -> None:
    """Raise a `ContradictionError` that names the first row in which more was found than theory allows."""
    for row in rows:
        bound = bound_of(row)
        if bound is not None and bound.contradicts:
            message = (
                f"the attack {row.attack} found {bound.measured.mean:.0%} of the pictures of client {row.client} first "
                f"(training {row.training}, obfuscation {row.obfuscation}), surely more than {bound.at_least:.2%}, "
                f"where the noise allows any attack {bound.allowed:.2%}: the noise is not what it is said to be"
            )
            raise ContradictionError(one_line(message))
