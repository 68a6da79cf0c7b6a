"""An assessment: the leakage, the accuracy and the bytes of one setting, each from real runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from unveil.advice.federation import FederatedRun
from unveil.advice.leakage import Leakage
from unveil.gate.judging import Ruling
from unveil.report.statistics import Interval, bootstrap_mean


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """One setting.

    Args:
        obfuscation: SPEC of the obfuscation.
        candidate: The candidate that it belongs to, as the user wrote it; empty for the baseline.
        family: Family of the obfuscation.
        runs: The federation trained through it, one for each seed.
        leakage: What the attacks reached; None where its training diverged, so that there was nothing to attack.
        cost: Accuracy of the baseline minus this one's, a share of the test pictures, with its 95 % interval over them.
        classes: Number of classes.
    """

    obfuscation: str
    candidate: str
    family: str
    runs: Sequence[FederatedRun]
    leakage: Leakage | None
    cost: Interval
    classes: int

    @property
    def accuracy(self) -> float:
        """Accuracy after the last round, mean over the seeds, in [0, 1]."""
        return fmean(run.final for run in self.runs)

    @property
    def wire_bits(self) -> float:
        """Bits of all updates that all clients send, mean over the seeds."""
        return fmean(run.wire_bits for run in self.runs)

    @property
    def diverged(self) -> int | None:
        """The first round, from 1, in which a seed's training diverged; None if none did."""
        return min((run.diverged for run in self.runs if run.diverged is not None), default=None)

    @property
    def is_chance(self) -> bool:
        """Whether the trained model gets no more right than one that always answers the same, by its interval."""
        right = [fmean(values) for values in zip(*(run.right for run in self.runs), strict=True)]
        return bootstrap_mean(right).low <= 1 / self.classes

    @property
    def ruling(self) -> Ruling:
        """Whether it meets the target; not judged where its training diverged."""
        return Ruling.UNJUDGED if self.leakage is None else self.leakage.ruling

    @property
    def met(self) -> bool:
        """Whether it meets the target."""
        return self.ruling is Ruling.PASSED

    @property
    def decided(self) -> bool | None:
        """Whether it meets the target; None if it could not be judged."""
        return None if self.ruling is Ruling.UNJUDGED else self.met


def cost_of(runs: Sequence[FederatedRun], baseline: Sequence[FederatedRun]) -> Interval:
    """Return how much accuracy is lost, with a 95 % bootstrap interval over the test pictures.

    Both federations answer for the same pictures, which are paired; a picture's mean over the seeds is one value.

    Args:
        runs: The federation trained through an obfuscation, one for each seed.
        baseline: The same without it, in the same order.
    """
    here, there = (
        [fmean(values) for values in zip(*(run.right for run in group), strict=True)] for group in (runs, baseline)
    )
    return bootstrap_mean([b - a for a, b in zip(here, there, strict=True)])
