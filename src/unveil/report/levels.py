"""How much was found, as levels with their thresholds.

A leak that was measured is a fact. That nothing was found is only a fact about the attack, and no fact at all where the
same attack fails on the bare update. So the levels say what came back; none of them is a promise of privacy.

The thresholds are conventions, set by eye on scikit-image's pictures at 64 px under blur and noise. They sort results
for a reader; they are not measured limits of what a person can recognise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unveil.report.significance import ALPHA

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
"""... or one picture alone this much: a mean hides one recovered picture among many lost ones.

The highest of 840 pictures that were rebuilt from another client's update correlate 0.52 with the originals.
"""

LEAK_SHARE = 0.5
"""Pictures came back, too, if this share of them meets all three conditions one by one, whatever the means are."""

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
        "Something came back, such as colours, layout, meaning or single pictures: in at least one metric more than "
        f"in every control, with a p-value of at most {ALPHA:g} (sign flips over the pictures, Holm's correction over "
        "the metrics); or one picture, counted singly, meets the conditions of LEAKS. Where no control but the blind "
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


UNJUDGED = Verdict(Level.INCONCLUSIVE, "Not judged yet.", (), ())
