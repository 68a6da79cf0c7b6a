"""Which pictures came back, and whether a row shows it: predicates on the numbers of one row."""

from __future__ import annotations

from unveil.core.types import Stop
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
    """How many pictures meet the conditions of LEAKS by themselves."""
    return sum(came_back_at(row, position) for position in range(row.pictures))


def came_back_at(row: Row, position: int) -> bool:
    """Whether one picture meets the conditions of LEAKS by itself: PSNR and SSIM say that it came back."""
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is None or position not in psnr.by_picture:
        return False
    gain = psnr.by_picture[position] - psnr.null_best.get(position, float("inf"))
    return gain >= LEAK_GAIN_DB and (ssim is None or _similar(ssim, position))


def _similar(ssim: Score, position: int) -> bool:
    value, null = ssim.by_picture.get(position, -1.0), ssim.null_best.get(position, 0.0)
    return value >= LEAK_SSIM and value - null >= LEAK_SSIM_GAIN


def unmeasured(row: Row) -> bool:
    """Whether PSNR, or the blind guess beside it, is missing."""
    return "psnr" not in row.scores or row.scores["psnr"].gain is None


def leaks(row: Row) -> bool:
    """Whether the pictures came back, on the whole or half of them one by one."""
    gain, ssim = row.scores["psnr"].gain, row.scores.get("ssim")
    if came_back(row) >= LEAK_SHARE * row.pictures:
        return True
    if gain is None or gain.low < LEAK_GAIN_DB:
        return False
    if ssim is None:
        return True
    return ssim.mean.low >= LEAK_SSIM and (ssim.gain is None or ssim.gain.mean >= LEAK_SSIM_GAIN)


def significant(row: Row) -> list[str]:
    """The metrics in which more came back than in every control, by more than chance explains."""
    return [name for name, p in row.above.items() if p <= ALPHA]


def partly_leaks(row: Row) -> bool:
    """Whether something came back: more in one metric than chance explains, or one picture."""
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
    """Whether the attack brought anything back at all, whatever the baseline did."""
    return not unmeasured(row) and (leaks(row) or partly_leaks(row))


def all_diverged(row: Row) -> bool:
    """Whether not one run came to an end."""
    return all(stop is Stop.DIVERGED for stop in row.stops)
