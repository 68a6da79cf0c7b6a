"""Levels of leakage and their thresholds.

A measured leak is a fact about the obfuscation. Finding nothing is a fact about the attack only, and says nothing where
the same attack fails without obfuscation. So the levels say what came back, and none of them promises privacy.

The thresholds are conventions, set by eye on scikit-image's pictures at 64 px under blur and noise. They sort results
for a reader; they are not measured limits of what a person recognises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unveil.report.significance import ALPHA

LEAK_GAIN_DB = 6.0
"""Pictures came back if PSNR exceeds the best control by this many dB, a quarter of its squared error or less."""

LEAK_SSIM = 0.3
"""... and SSIM is at least this ..."""

LEAK_SSIM_GAIN = 0.1
"""... and exceeds the best control by this: a grey picture has a high SSIM where a picture is flat."""

TRACE_GAIN_DB = 2.0
"""Something came back if mean PSNR exceeds the best control by this many dB and the whole interval lies above it.

The mean counts, not the lower end: with few pictures the interval is wide, and doubt must not read `NO LEAK FOUND`.
"""

TRACE_SSIM_GAIN = 0.1
"""... or SSIM exceeds the best control by this ..."""

TRACE_CORRELATION = 0.4
"""... or pictures and originals correlate by this, which wrong brightness or contrast does not change ..."""

ONE_CORRELATION = 0.85
"""Something also came back if one picture correlates by this ...

A mean hides one recovered picture among many lost ones, such as black ones. Of 840 pictures rebuilt from another
client's update the highest correlation with the originals is 0.52; of 480 of CIFAR-10, with few details, it is 0.73.
"""

ONE_CORRELATION_GAIN = 0.2
"""... and by this more than the same picture of the best control: pictures of one kind, such as X-rays, look alike."""

LEAK_SHARE = 0.5
"""Pictures also came back if this share of them meets all three conditions of LEAKS singly, whatever the means are."""

FEW_PICTURES = 8
"""With fewer pictures than this a verdict warns of a rough interval, and a report recommends nothing."""


class Level(Enum):
    """How much came back; the value is the word in reports."""

    LEAKS = "LEAKS"
    PARTLY = "PARTLY LEAKS"
    NONE = "NO LEAK FOUND"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def short(self) -> str:
        """The level in a few words, for the key of a report."""
        return SHORT[self]

    @property
    def meaning(self) -> str:
        """The conditions of the level, with their thresholds."""
        return MEANINGS[self]


SHORT = {
    Level.LEAKS: "The pictures came back.",
    Level.PARTLY: "Something of them came back, such as colours, layout or single pictures.",
    Level.NONE: "Nothing was found, by an attack that finds something without the obfuscation. It proves no privacy.",
    Level.INCONCLUSIVE: "Nothing was learned: the attack fails without the obfuscation, too, or could not be scored.",
}

MEANINGS = {
    Level.LEAKS: (
        f"The pictures came back: PSNR at least {LEAK_GAIN_DB:g} dB above the best control and SSIM at least "
        f"{LEAK_SSIM:g}, both at the lower end of the interval, and mean SSIM at least {LEAK_SSIM_GAIN:g} above the "
        "best control; or at least half of the pictures, counted singly, meet these conditions. The blind guess is one "
        "of the controls."
    ),
    Level.PARTLY: (
        "Something came back, such as colours, layout, meaning or single pictures: in at least one metric more than "
        f"in every control, with a p-value of at most {ALPHA:g} (sign flips over the pictures, corrected for the "
        "number of metrics after Holm and of rows after Benjamini and Hochberg); or one picture, counted singly, meets "
        f"the conditions of LEAKS, or correlates with its original by {ONE_CORRELATION:g} and by "
        f"{ONE_CORRELATION_GAIN:g} more than in every control. Where no control but the blind guess was run, or the "
        f"pictures are too few for such a p-value: mean PSNR at least {TRACE_GAIN_DB:g} dB above with the whole "
        f"interval above; or SSIM at least {TRACE_SSIM_GAIN:g} above, or correlation at least {TRACE_CORRELATION:g} "
        "and above, at the lower end of the interval, which a single picture does not have."
    ),
    Level.NONE: (
        "No leakage was found by an attack that works here: in the bare update it did find something. The bound is "
        "what the number of pictures allows to say. A stronger attack may find more."
    ),
    Level.INCONCLUSIVE: (
        "Nothing was learned about the obfuscation: the same attack fails on the bare update too, or was not run "
        "on it, or every run diverged, or the scores are missing, or the originals of a recorded update are not known."
    ),
}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one row.

    Args:
        level: How much came back.
        sentence: The verdict in one sentence.
        reasons: The numbers that it rests on, one sentence each.
        caveats: What weakens it, one sentence each.
    """

    level: Level
    sentence: str
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]


UNJUDGED = Verdict(Level.INCONCLUSIVE, "Not judged yet.", (), ())
