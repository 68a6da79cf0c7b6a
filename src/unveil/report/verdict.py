"""What the numbers of one row allow one to say, in plain words.

A leak that was measured is a fact. That nothing was found is only a fact about the attack, and no fact at all where the
same attack fails on the bare update. So the verdicts say what came back; none of them is a promise of privacy.

The thresholds are conventions, set by eye on scikit-image's pictures at 64 px under blur and noise. They sort results
for a reader; they are not measured limits of what a person can recognise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from unveil.core.types import Stop
from unveil.report import formatting
from unveil.report.descriptions import measure
from unveil.report.rows import Row, Score
from unveil.report.significance import ALPHA, NO_UPDATE, can_tell
from unveil.report.statistics import wilson

LEAK_GAIN_DB = 6.0
"""Pictures came back if PSNR lies this far above the blind guess: a quarter of its squared error or less."""

LEAK_SSIM = 0.3
"""... and if SSIM is at least this ..."""

LEAK_SSIM_GAIN = 0.1
"""... and this far above the blind guess, which scores high by itself on pictures with large flat areas."""

TRACE_GAIN_DB = 2.0
"""Something came back if mean PSNR lies this far above the blind guess, and the whole interval above it.

Not the lower end alone: with few pictures the interval is wide, and doubt must not read as `NO LEAK FOUND`.
"""

TRACE_SSIM_GAIN = 0.1
"""... or SSIM lies this far above the blind guess."""

TRACE_CORRELATION = 0.4
"""... or the pictures correlate this much with the originals, which a wrong brightness or contrast does not hide."""

ONE_CORRELATION = 0.6
"""... or one picture alone this much: a mean over a horse that came back and bricks that did not hides the horse.

The highest of 840 pictures that were rebuilt from another client's update correlate 0.52 with the originals.
"""

LEAK_SHARE = 0.5
"""Pictures came back, too, if this share of them meets all three conditions one by one, whatever the means are."""

CONTROLS = {
    "labels only": "for the update of synthetic pictures with the same labels",
    "label alone": "for what is drawn from the label alone",
    "label alone (matched)": "for the same matched to the originals",
}
"""How a sentence names a control, where it is not the update of what its name says."""

FEW_PICTURES = 8
"""With fewer pictures than this the interval is rough and nothing is recommended."""


class Level(Enum):
    """How much was found; the value is what the reader sees."""

    LEAKS = "LEAKS"
    PARTLY = "PARTLY LEAKS"
    NONE = "NO LEAK FOUND"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def meaning(self) -> str:
        """What the level stands for, with its thresholds."""
        return MEANINGS[self]


MEANINGS = {
    Level.LEAKS: (
        f"The pictures came back: PSNR at least {LEAK_GAIN_DB:g} dB above the best control and SSIM at least "
        f"{LEAK_SSIM:g}, both at the lower end of the interval, and mean SSIM at least {LEAK_SSIM_GAIN:g} above the "
        "best control; or at least half of the pictures, counted singly, meet these conditions. The blind guess is one "
        "of the controls."
    ),
    Level.PARTLY: (
        "Something came back, such as colours, layout, meaning or single pictures: in at least one measure more than "
        f"in every control, with a p-value of at most {ALPHA:g} (sign flips over the pictures, Holm's correction over "
        "the measures); or one picture, counted singly, meets the conditions of LEAKS. Where no control but the blind "
        f"guess was run, or the pictures are too few for such a p-value: mean PSNR at least {TRACE_GAIN_DB:g} dB above "
        f"with the whole interval above; or SSIM at least {TRACE_SSIM_GAIN:g} above, or correlation at least "
        f"{TRACE_CORRELATION:g}, at the lower end of the interval, or {ONE_CORRELATION:g} for one picture."
    ),
    Level.NONE: (
        "No leakage was found by an attack that works here: in the bare update it did find something. The bound is "
        "what the number of pictures allows to say. A stronger attack may find more."
    ),
    Level.INCONCLUSIVE: (
        "Nothing was learned about the obfuscation: the same attack fails on the bare update too, or was not run "
        "on it, or every run diverged, or the scores are missing."
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What may be said about one row.

    Args:
        level: How much was found.
        sentence: The verdict in one sentence.
        reasons: What it rests on, a sentence each.
        caveats: What weakens it, a sentence each.
    """

    level: Level
    sentence: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A verdict and when it holds; the first rule that holds is taken.

    Args:
        level: The verdict's level.
        holds: Whether the row meets it.
        sentence: The verdict's words, given the row.
    """

    level: Level
    holds: Callable[[Row], bool]
    sentence: Callable[[Row], str]


def judge(row: Row) -> Verdict:
    """The verdict on one row."""
    rule = next(rule for rule in RULES if rule.holds(row))
    return Verdict(rule.level, rule.sentence(row), _reasons(row), _caveats(row))


def came_back(row: Row) -> int:
    """How many pictures meet the conditions of LEAKS by themselves."""
    return sum(came_back_at(row, position) for position in range(row.pictures))


def came_back_at(row: Row, position: int) -> bool:
    """Whether one picture meets the conditions of LEAKS by itself: PSNR and SSIM say that it came back."""
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is None or position not in psnr.by_picture:
        return False
    gain = psnr.by_picture[position] - psnr.floor_by_picture.get(position, float("inf"))
    return gain >= LEAK_GAIN_DB and (ssim is None or _similar(ssim, position))


def _similar(ssim: Score, position: int) -> bool:
    value, floor = ssim.by_picture.get(position, -1.0), ssim.floor_by_picture.get(position, 0.0)
    return value >= LEAK_SSIM and value - floor >= LEAK_SSIM_GAIN


def _unmeasured(row: Row) -> bool:
    return "psnr" not in row.scores or row.scores["psnr"].gain is None


def _leaks(row: Row) -> bool:
    gain, ssim = row.scores["psnr"].gain, row.scores.get("ssim")
    if came_back(row) >= LEAK_SHARE * row.pictures:
        return True
    if gain is None or gain.low < LEAK_GAIN_DB:
        return False
    if ssim is None:
        return True
    return ssim.mean.low >= LEAK_SSIM and (ssim.gain is None or ssim.gain.mean >= LEAK_SSIM_GAIN)


def significant(row: Row) -> list[str]:
    """The measures in which more came back than in every control, by more than chance explains."""
    return [name for name, p in row.above.items() if p <= ALPHA]


def _partly(row: Row) -> bool:
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
    """Whether the attack brought anything back at all, whatever the control did."""
    return not _unmeasured(row) and (_leaks(row) or _partly(row))


def all_diverged(row: Row) -> bool:
    """Whether not one run came to an end."""
    return all(stop == Stop.DIVERGED.value for stop in row.stops)


def _numbers(row: Row) -> str:
    psnr = row.scores["psnr"]
    text = formatting.decibels(psnr.mean.mean)
    if len(psnr.by_picture) > 1:
        text += f", {formatting.decibels(max(psnr.by_picture.values()))} for the picture that came back best"
    for contrast in psnr.contrasts:
        if contrast.control != NO_UPDATE:
            text += f", {formatting.decibels(contrast.value)} {_named(contrast.control)}"
    return text if psnr.floor is None else f"{text}, where a blind guess scores {formatting.decibels(psnr.floor)}"


def _named(control: str) -> str:
    return CONTROLS.get(control, f"for the update of {control}")


def _bound(row: Row) -> str:
    """What so many pictures allow to say where none came back."""
    share = wilson(came_back(row), row.pictures).high
    pictures = formatting.count(row.pictures, "picture")
    return f"with {pictures}, up to {share:.0%} of such pictures may still come back (95 %)"


def _what(row: Row) -> str:
    """The measures that show it, where they were tested."""
    found = [measure(name).heading for name in significant(row)]
    return f", seen in {formatting.listed(found)}" if found else ""


def _single(row: Row) -> str:
    """Says so where some pictures came back and some did not."""
    number = came_back(row)
    return f"; counted singly, {number} of {row.pictures} came back" if 0 < number < row.pictures else ""


RULES: tuple[Rule, ...] = (
    Rule(Level.INCONCLUSIVE, _unmeasured, lambda row: "PSNR or the blind guess beside it is missing from the results."),
    Rule(Level.LEAKS, _leaks, lambda row: f"The pictures came back: {_numbers(row)}{_single(row)}."),
    Rule(Level.PARTLY, _partly, lambda row: f"Something came back{_what(row)}: {_numbers(row)}{_single(row)}."),
    Rule(
        Level.INCONCLUSIVE,
        all_diverged,
        lambda row: f"Every run of the attack diverged, so its failure says nothing: {_numbers(row)}.",
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.is_control,
        lambda row: f"This attack fails even on the bare update: {_numbers(row)}.",
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.control is None,
        lambda row: (
            f"This attack found nothing ({_numbers(row)}), but was never tried on the bare update, "
            "so the obfuscation is untested."
        ),
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.control is not None and not found_something(row.control),
        lambda row: f"This attack fails even on the bare update, so the obfuscation is untested: {_numbers(row)}.",
    ),
    Rule(
        Level.NONE,
        lambda row: True,
        lambda row: f"No leakage found by an attack that works here: {_numbers(row)}; {_bound(row)}.",
    ),
)
"""In order of precedence: what was found comes before every doubt about what was not."""


def _reasons(row: Row) -> tuple[str, ...]:
    reasons = []
    psnr, ssim = row.scores.get("psnr"), row.scores.get("ssim")
    if psnr is not None and psnr.gain is not None:
        reasons.append(
            f"PSNR is {psnr.gain.mean:+z.1f} dB against {_bar(row)}, and {psnr.gain.low:+z.1f} dB at the lower "
            f"end of the interval (LEAKS needs {LEAK_GAIN_DB:g})."
        )
    if ssim is not None:
        against = "" if ssim.floor is None else f", a blind guess {ssim.floor:.2f}"
        reasons.append(
            f"SSIM is {ssim.mean.mean:.2f}, and {ssim.mean.low:.2f} at the lower end of the interval "
            f"(LEAKS needs {LEAK_SSIM:g}){against}."
        )
    correlation = row.scores.get("correlation")
    if correlation is not None:
        reasons.append(
            f"Correlation with the originals is {correlation.mean.mean:.2f}, and {correlation.mean.low:.2f} at the "
            f"lower end of the interval (a trace needs {TRACE_CORRELATION:g}), whatever the brightness and contrast."
        )
    reasons += [_contrast(row, name) for name in row.above]
    if row.cost is not None and row.control is not None:
        bare = formatting.decibels(row.control.scores["psnr"].mean.mean)
        reasons.append(
            f"The same attack reaches {bare} without the obfuscation, "
            f"a difference of {row.cost.mean:z.1f} dB {formatting.bounds(row.cost, 1)}."
        )
    return tuple(reasons)


def _bar(row: Row) -> str:
    return "the best control of each picture" if row.scores["psnr"].contrasts else "a blind guess"


def _contrast(row: Row, name: str) -> str:
    """One measure against the control that explains most of it away."""
    shown, least, p = measure(name), row.scores[name].contrasts[0], row.above[name]
    says = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    return (
        f"{shown.heading} against {least.control}, the control nearest to it: {least.above.mean:+z.{shown.digits}f} "
        f"{formatting.bounds(least.above, shown.digits)}, {says} after correction for {len(row.above)} measures."
    )


def _caveats(row: Row) -> tuple[str, ...]:
    """Each with its condition; only those that hold are said."""
    diverged = sum(stop == Stop.DIVERGED.value for stop in row.stops)
    weak = row.control is not None and not found_something(row.control)
    conditions = (
        (
            not row.is_control and row.control is None,
            "There is no control: the same attack was not run without the obfuscation.",
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
        (row.pictures < FEW_PICTURES, f"Only {formatting.count(row.pictures, 'picture')}: the interval is rough."),
        ("ssim" not in row.scores, "SSIM was not measured: judged by PSNR alone."),
        (
            not row.above,
            "No control but the blind guess was run: part of the scores may be what any reconstruction would have.",
        ),
    )
    return tuple(sentence for holds, sentence in conditions if holds)
