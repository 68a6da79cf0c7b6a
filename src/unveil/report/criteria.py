"""Predicates on the numbers of one row: which pictures came back, and whether the row leaks.

Pictures are judged one by one before means are: a mean hides plain pictures among black ones.
"""

from __future__ import annotations

from unveil.core.reconstruction import Stop
from unveil.report.levels import (
    LEAK_GAIN_DB,
    LEAK_SHARE,
    LEAK_SSIM,
    LEAK_SSIM_GAIN,
    ONE_CORRELATION,
    ONE_CORRELATION_GAIN,
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
    """Whether the picture at this position, from 0, meets the conditions of LEAKS singly, under some seed."""
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is None:
        return False
    bar = psnr.null_runs.get(position, float("inf"))
    return any(
        values.get(position, float("-inf")) - bar >= LEAK_GAIN_DB and (ssim is None or _similar(ssim, run, position))
        for run, values in enumerate(psnr.runs)
    )


def _similar(ssim: Score, run: int, position: int) -> bool:
    """Whether the picture's SSIM meets the conditions of LEAKS in one run."""
    value = ssim.runs[run].get(position, -1.0) if run < len(ssim.runs) else -1.0
    return value >= LEAK_SSIM and value - ssim.null_runs.get(position, 0.0) >= LEAK_SSIM_GAIN


def recognised(row: Row) -> list[int]:
    """Positions of the pictures that correlate with their originals far more than any control's, under some seed.

    A picture that is only too dark, too bright or too flat scores low in PSNR and SSIM, and is plain to see.
    """
    score = row.scores.get("correlation")
    if score is None:
        return []
    positions = dict.fromkeys(position for values in score.runs for position in values)
    best = {at: max(values.get(at, -1.0) for values in score.runs) for at in positions}
    return sorted(
        at
        for at, value in best.items()
        if value >= ONE_CORRELATION and value - score.null_runs.get(at, 0.0) >= ONE_CORRELATION_GAIN
    )


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
    if gain is None or gain.at_least < LEAK_GAIN_DB:
        return False
    if ssim is None:
        return True
    return ssim.mean.at_least >= LEAK_SSIM and (ssim.gain is None or ssim.gain.mean >= LEAK_SSIM_GAIN)


def significant(row: Row) -> list[str]:
    """The metrics whose corrected p-value against every control is at most `ALPHA`."""
    return [name for name, p in row.above.items() if p <= ALPHA]


def partly_leaks(row: Row) -> bool:
    """Whether something came back: one metric is significant, or one picture came back or is recognised singly."""
    if significant(row) or came_back(row) or recognised(row):
        return True
    return not can_tell(row.pictures, len(row.above) * row.compared) and stands_out(row)


def stands_out(row: Row) -> bool:
    """Whether a mean lies above the best control by the thresholds, at the lower end of its interval.

    This stands for a test where the pictures are too few for one. A single picture has no interval and never does.
    """
    gain, ssim, correlation = row.scores["psnr"].gain, row.scores.get("ssim"), row.scores.get("correlation")
    layout = ssim is not None and ssim.gain is not None and ssim.gain.at_least >= TRACE_SSIM_GAIN
    colours = gain is not None and gain.at_least > 0 and gain.mean >= TRACE_GAIN_DB
    shapes = correlation is not None and correlation.mean.at_least >= TRACE_CORRELATION
    beyond = correlation is None or correlation.gain is None or correlation.gain.at_least > 0
    return colours or layout or (shapes and beyond)


def found_something(row: Row) -> bool:
    """Whether the row leaks or partly leaks, whatever the baseline did."""
    return not unmeasured(row) and (leaks(row) or partly_leaks(row))


def all_diverged(row: Row) -> bool:
    """Whether every run diverged."""
    return all(stop is Stop.DIVERGED for stop in row.stops)
