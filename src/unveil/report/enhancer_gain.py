"""What an enhancer added to an attack's pictures, and whether the update agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unveil.core.records import ATTACK, ENHANCED, Trial
from unveil.report.statistics import Interval, bootstrap_mean


@dataclass(frozen=True, kw_only=True)
class EnhancerGain:
    """Means over all runs of one row.

    Args:
        before: PSNR of the attack's pictures in dB; None if it was not measured.
        gain: PSNR with the enhancer minus `before` in dB, mean over the seeds, paired by picture; None likewise.
        misfit: Misfit after the enhancer divided by the misfit before it.
        share: Share of the enhancer's change that was kept, 0 to 1.
    """

    before: float | None
    gain: Interval | None
    misfit: float
    share: float

    @property
    def sentence(self) -> str:
        """The numbers as one sentence of a report."""
        parts = []
        if self.gain is not None and self.before is not None:
            parts.append(
                f"the attack's own pictures have {self.before:.1f} dB, the enhancer adds {self.gain.mean:+.2f} dB "
                + (f"[{self.gain.low:+.2f}, {self.gain.high:+.2f}]" if self.gain.is_known else "(no interval)")
            )
        parts.append(f"the update's misfit is {self.misfit:.4g} times what it was before")
        if self.share < 1:
            parts.append(f"{self.share:.0%} of the change was kept, as far as the update allows")
        return f"The enhancer: {'; '.join(parts)}."


def enhancer_gain(trials: Sequence[Trial]) -> EnhancerGain:
    """What the enhancer added.

    Args:
        trials: The trials of one row; each has the outcomes `attack` and `enhanced`.
    """
    outcomes = [(trial.outcomes[ATTACK], trial.outcomes[ENHANCED]) for trial in trials]
    runs = [(a.scores["psnr"], e.scores["psnr"]) for a, e in outcomes if "psnr" in a.scores and "psnr" in e.scores]
    by_run = [[after - before for before, after in zip(*run, strict=True)] for run in runs]
    gains = [fmean(picture) for picture in zip(*by_run, strict=True)]
    done = [enhanced.enhancement for _, enhanced in outcomes if enhanced.enhancement is not None]
    return EnhancerGain(
        before=fmean(value for before, _ in runs for value in before) if runs else None,
        gain=bootstrap_mean(gains) if gains else None,
        misfit=fmean(e.misfit_after / e.misfit_before if e.misfit_before else 1.0 for e in done),
        share=fmean(e.share for e in done),
    )
