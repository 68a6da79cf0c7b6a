"""Predicates on the numbers of one row: which pictures came back, and whether the row leaks."""

from __future__ import annotations

from unveil.core.reconstruction import Stop
from unveil.report.levels import (
    LEAK_GAIN_DB,
    LEAK_SHARE,
    LEAK_SSIM,
    LEAK_SSIM_GAIN,
    ONE_CORRELATION,
    TRACE_CORRELATION,
    TRACE_GAIN_DB,
    TRACE_SSIM_GAIN,
)
from unveil.report.rows import Row, Score
from unveil.report.significance import ALPHA, can_tell


def came_back(row: Row) -> int:
    """Number of pictures that meet the conditions of LEAKS singly."""
    return sum(came_back_at(row, position) for position in range(row.pictures))


def came_back_at(row: Row, position: int) -> bool:
    """Whether the picture at this position, from 0, meets the conditions of LEAKS singly, by PSNR and SSIM."""
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is None or position not in psnr.by_picture:
        return False
    gain = psnr.by_picture[position] - psnr.null_best.get(position, float("inf"))
    return gain >= LEAK_GAIN_DB and (ssim is None or _similar(ssim, position))


def _similar(ssim: Score, position: int) -> bool:
    """Whether the picture's SSIM meets the conditions of LEAKS."""
    value, null = ssim.by_picture.get(position, -1.0), ssim.null_best.get(position, 0.0)
    return value >= LEAK_SSIM and value - null >= LEAK_SSIM_GAIN


def unmeasured(row: Row) -> bool:
    """Whether PSNR or its blind guess is missing."""
    return "psnr" not in row.scores or row.scores["psnr"].gain is None


def without_originals(row: Row) -> bool:
    """Whether the row is of a recorded update whose originals are not known."""
    return "psnr" not in row.scores and row.plausibility is not None


def leaks(row: Row) -> bool:
    """Whether the pictures came back, by the means or by half of the pictures singly."""
    gain, ssim = row.scores["psnr"].gain, row.scores.get("ssim")
    if came_back(row) >= LEAK_SHARE * row.pictures:
        return True
    if gain is None or gain.low < LEAK_GAIN_DB:
        return False
    if ssim is None:
        return True
    return ssim.mean.low >= LEAK_SSIM and (ssim.gain is None or ssim.gain.mean >= LEAK_SSIM_GAIN)


def significant(row: Row) -> list[str]:
    """The metrics whose corrected p-value against every control is at most `ALPHA`."""
    return [name for name, p in row.above.items() if p <= ALPHA]


def partly_leaks(row: Row) -> bool:
    """Whether something came back: one metric is significant, or one picture came back singly."""
    if can_tell(row.pictures, len(row.above)):
        return bool(significant(row)) or came_back(row) > 0
    gain, ssim = row.scores["psnr"].gain, row.scores.get("ssim")
    layout = ssim is not None and ssim.gain is not None and ssim.gain.low >= TRACE_SSIM_GAIN
    colours = gain is not None and gain.low > 0 and gain.mean >= TRACE_GAIN_DB
    correlation = row.scores.get("correlation")
    shapes = correlation is not None and (
        correlation.mean.low >= TRACE_CORRELATION or max(correlation.by_picture.values()) >= ONE_CORRELATION
    )
    return colours or layout or shapes or came_back(row) > 0


def found_something(row: Row) -> bool:
    """Whether the row leaks or partly leaks, whatever the baseline did."""
    return not unmeasured(row) and (leaks(row) or partly_leaks(row))


def all_diverged(row: Row) -> bool:
    """Whether every run diverged."""
    return all(stop is Stop.DIVERGED for stop in row.stops)
