"""What the decibels of a report mean to a person: a scale in words, and pictures of the audit along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unveil.core.pixels import BLURRED
from unveil.report.rows import Picture, Row

STEPS = 6
"""Most pictures along the scale."""

LEAST_RANGE = 2.0
"""Least difference of the highest and the lowest score, in dB, for which pictures along the scale say something."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A rebuilt picture that stands for its score.

    Args:
        picture: The picture, of which the original is at hand.
        psnr: Its PSNR in dB.
    """

    picture: Picture
    psnr: float

    @property
    def off_by(self) -> float:
        """See `off_by`."""
        return off_by(self.psnr)


def off_by(psnr: float) -> float:
    """How far pixels are from the original's, as a share of the range from black to white (root mean square).

    Args:
        psnr: The peak signal-to-noise ratio in dB.
    """
    return float(10 ** (-psnr / 20))


def meaning(rows: Sequence[Row]) -> str:
    """The scale of PSNR in words, with what a grey picture scores on these pictures."""
    off = {psnr: f"{100 * off_by(psnr):.0f}\N{NO-BREAK SPACE}%" for psnr in (10, 20, 30, 40)}
    blinds = [row.scores["psnr"].blind for row in rows if "psnr" in row.scores and row.scores["psnr"].blind is not None]
    grey = (
        f" A plain grey picture, for which nobody needs an update, scores {fmean(blinds):.1f} dB here: a score near it "
        "shows nothing."
        if blinds
        else ""
    )
    return (
        "The score PSNR, in decibels (dB), says how near a rebuilt picture is to its original; higher means that more "
        f"came back. At 10 dB its pixels are off by {off[10]} of the range from black to white, at 20 dB by {off[20]}, "
        f"at 30 dB by {off[30]}, and at 40 dB by {off[40]}, which nobody sees.{grey} The score does not know what a "
        "picture shows: a person can be recognised in a picture of a low score, so look at the pictures."
    )


def along_the_scale(rows: Sequence[Row]) -> list[Step]:
    """Rebuilt pictures of the audit at even distances from its lowest to its highest PSNR, at most `STEPS`.

    None where they are few, alike, blurred or without originals.
    """
    found = [
        Step(picture=picture, psnr=picture.psnr)
        for row in rows
        if BLURRED not in row.notes
        for picture in row.first
        if picture.psnr is not None and picture.original and picture.rebuilt
    ]
    finite = sorted((step for step in found if abs(step.psnr) < 100), key=lambda step: step.psnr)
    if len(finite) < STEPS or finite[-1].psnr - finite[0].psnr < LEAST_RANGE:
        return []
    low, high = finite[0].psnr, finite[-1].psnr
    chosen: list[int] = []
    for wanted in (low + (high - low) * number / (STEPS - 1) for number in range(STEPS)):
        left = (place for place in range(len(finite)) if place not in chosen)
        chosen.append(min(left, key=lambda place: abs(finite[place].psnr - wanted)))
    return [finite[place] for place in sorted(chosen)]
