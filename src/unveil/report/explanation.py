"""The sentences of a verdict: its numbers, its reasons and its caveats."""

from __future__ import annotations

from statistics import fmean

from unveil.core.reconstruction import Stop
from unveil.metrics import facts_of
from unveil.report import formatting
from unveil.report.criteria import came_back, found_something, recognised, significant, without_originals
from unveil.report.levels import FEW_PICTURES, LEAK_GAIN_DB, LEAK_SSIM, TRACE_CORRELATION
from unveil.report.rows import Row
from unveil.report.significance import NO_UPDATE, can_tell
from unveil.report.statistics import Interval, wilson

CONTROLS = {
    "labels only": "for the update of synthetic pictures with the same labels",
    "prior only": "for what is drawn from the label alone",
    "prior only, matched": "for the same matched to the originals",
}
"""How a sentence names a control whose name is not the owner of an update."""


def numbers(row: Row) -> str:
    """PSNR in dB of the row, of its best picture, of every control and of the blind guess."""
    psnr = row.scores["psnr"]
    text = formatting.decibels(psnr.mean.mean)
    if len(psnr.by_picture) > 1:
        text += f", {formatting.decibels(max(psnr.by_picture.values()))} for the picture that came back best"
    for contrast in psnr.contrasts:
        if contrast.control != NO_UPDATE:
            text += f", {formatting.decibels(contrast.value)} {_named(contrast.control)}"
    return text if psnr.blind is None else f"{text}, where a blind guess scores {formatting.decibels(psnr.blind)}"


def _named(control: str) -> str:
    """A control as a sentence about a score names it."""
    return CONTROLS.get(control, f"for the update of {control}")


def bound(row: Row) -> str:
    """The largest share of pictures that may still come back, given how many were tested."""
    share = wilson(came_back(row), row.pictures).high
    pictures = formatting.count(row.pictures, "picture")
    return f"with {pictures}, up to {share:.0%} of such pictures may still come back (95 %)"


def unscored(row: Row) -> str:
    """What can be said of a recorded update without its originals."""
    return (
        "Without the originals no picture can be scored, so look at them beside these numbers. "
        f"{' '.join(plausible(row))}"
    )


def plausible(row: Row) -> list[str]:
    """How much of a recorded update the pictures explain, and how the attack does on synthetic pictures."""
    found = row.plausibility
    if found is None:
        return []
    sentences = [
        f"The pictures explain {found.explained:.0%} of the update (median over its tensors; grey pictures explain "
        f"0%), those that the same attack makes of the update of synthetic pictures {found.control:.0%}."
    ]
    psnr, blind = found.rehearsal.get("psnr"), found.rehearsal_blind.get("psnr")
    if psnr and blind:
        sentences.append(
            f"Those synthetic pictures themselves it rebuilds from their update with "
            f"{formatting.decibels(fmean(psnr))}, where a blind guess scores {formatting.decibels(fmean(blind))}."
        )
    return sentences


def shown_by(row: Row) -> str:
    """The significant metrics, as the end of a sentence; empty where there are none."""
    found = [facts_of(name).heading for name in significant(row)]
    return f", seen in {formatting.listed(found)}" if found else ""


def single(row: Row) -> str:
    """How many pictures came back or are recognised singly, where not all came back; else empty."""
    number, seen = came_back(row), len(recognised(row))
    if number == row.pictures or not (number or seen):
        return ""
    back = f"{number} of {row.pictures} came back"
    plain = f"{seen} can be recognised whatever their brightness" if seen > number else ""
    return f"; counted singly, {' and '.join(filter(None, [back if number else '', plain]))}"


def reasons(row: Row) -> tuple[str, ...]:
    """The numbers that the verdict rests on, one sentence each."""
    found: list[str] = [] if without_originals(row) else plausible(row)
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is not None and psnr.gain is not None:
        found.append(
            f"PSNR is {psnr.gain.mean:+z.1f} dB against {_bar(row)}{_at_least(psnr.gain, '+z.1f', ' dB')} "
            f"(LEAKS needs {LEAK_GAIN_DB:g})."
        )
    if ssim is not None:
        against = "" if ssim.blind is None else f", a blind guess {ssim.blind:.2f}"
        found.append(f"SSIM is {ssim.mean.mean:.2f}{_at_least(ssim.mean, '.2f')} (LEAKS needs {LEAK_SSIM:g}){against}.")
    correlation = row.scores.get("correlation")
    if correlation is not None:
        found.append(
            f"Correlation with the originals is {correlation.mean.mean:.2f}{_at_least(correlation.mean, '.2f')} "
            f"(a trace needs {TRACE_CORRELATION:g}), whatever the brightness and contrast."
        )
    found += [_contrast(row, name) for name in row.above]
    if row.cost is not None and row.baseline is not None:
        bare = formatting.decibels(row.baseline.scores["psnr"].mean.mean)
        found.append(
            f"The same attack reaches {bare} without the obfuscation, "
            f"a difference of {row.cost.mean:z.1f} dB {formatting.bounds(row.cost, 1)}."
        )
    return tuple(found)


def _at_least(interval: Interval, digits: str, unit: str = "") -> str:
    """The lower end of an interval as the next part of a sentence; empty where there is no interval."""
    return f", and {interval.low:{digits}}{unit} at the lower end of the interval" if interval.is_known else ""


def _bar(row: Row) -> str:
    """What the gain in PSNR is measured against."""
    return "the best control of each picture" if row.scores["psnr"].contrasts else "a blind guess"


def _contrast(row: Row, name: str) -> str:
    """One metric against the control that scores nearest to the row."""
    shown, least, p = facts_of(name), row.scores[name].contrasts[0], row.above[name]
    rows = f" and {row.compared} rows" if row.compared > 1 else ""
    corrected = f"after correction for {formatting.count(len(row.above), 'metric')}{rows}"
    says = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    return (
        f"{shown.heading} against {least.control}, the control nearest to it: {least.above.mean:+z.{shown.digits}f} "
        f"{formatting.bounds(least.above, shown.digits)}, {says} {corrected}."
    )


def caveats(row: Row) -> tuple[str, ...]:
    """What weakens the verdict, one sentence for each condition that holds."""
    diverged = sum(stop is Stop.DIVERGED for stop in row.stops)
    weak = row.baseline is not None and not found_something(row.baseline)
    no_test = bool(row.above) and not can_tell(row.pictures, len(row.above) * row.compared)
    if without_originals(row):
        return ()
    conditions = (
        (
            not row.is_baseline and row.baseline is None,
            "There is no baseline: the same attack was not run without the obfuscation.",
        ),
        (
            weak and found_something(row),
            "The same attack found nothing in the bare update, so look at the seeds before comparing.",
        ),
        (
            diverged > 0,
            f"{diverged} of {formatting.count(len(row.stops), 'run')} diverged; the best images before that were kept.",
        ),
        (
            len(row.seeds) == 1,
            "One seed only: the interval is across pictures, not across repetitions of the obfuscation's randomness.",
        ),
        (
            row.pictures == 1,
            f"One picture has no interval, and nothing tells it from chance: give the client {FEW_PICTURES} or more.",
        ),
        (
            1 < row.pictures < FEW_PICTURES,
            f"Only {row.pictures} pictures: the interval is rough. Give the client {FEW_PICTURES} or more.",
        ),
        (
            no_test and row.pictures >= FEW_PICTURES,
            f"{row.pictures} pictures are too few for a test that is corrected for {row.compared} rows: judged by the "
            "thresholds where it finds nothing. Give the client more pictures, or compare less.",
        ),
        ("ssim" not in row.scores, "SSIM was not measured: judged by PSNR alone."),
        (
            not row.above,
            "No control but the blind guess was run: part of the scores may be what any reconstruction would have.",
        ),
    )
    return tuple(sentence for holds, sentence in conditions if holds)
