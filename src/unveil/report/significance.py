"""Leakage above the controls: how much better the attack scores with the client's update than without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unveil.metrics import facts_of
from unveil.report.statistics import Interval, bootstrap_mean, holm, sign_flip_test

NO_UPDATE = "no update"
ALPHA = 0.05
"""A verdict rests on p-values up to this, after Holm's correction over the metrics of a row."""

TESTED = ("psnr", "ssim", "correlation", "lpips", "semantic_jaccard", "feature_similarity", "reid_rank")
"""One metric for each thing that may leak; more would only make each of them weaker."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One metric of one row against one control.

    Args:
        control: The control's name.
        value: Mean of the metric there.
        above: By how much more came back than there, paired by picture; above zero where the update leaks.
        p: Of a mean difference as large by chance: sign flips over the pictures, one-sided.
    """

    control: str
    value: float
    above: Interval
    p: float


def contrasts(name: str, values: Mapping[int, float], controls: Mapping[str, Mapping[int, float]]) -> list[Contrast]:
    """A metric against every control that has it, the one that explains most of it away first.

    Args:
        name: The metric.
        values: Position in the batch -> its value.
        controls: Control -> the same for it.
    """
    sign = 1 if facts_of(name).leak == "high" else -1
    found = []
    for control, there in controls.items():
        differences = [sign * (value - there[position]) for position, value in values.items() if position in there]
        if differences:
            found.append(
                Contrast(
                    control=control,
                    value=sum(there.values()) / len(there),
                    above=bootstrap_mean(differences),
                    p=sign_flip_test(differences),
                )
            )
    return sorted(found, key=lambda contrast: (-contrast.p, contrast.above.mean))


def adjusted(found: Mapping[str, list[Contrast]]) -> dict[str, float]:
    """P-value of each tested metric, corrected for their number; the control that it beats least decides.

    Only where another control than the blind guess was run: against a grey picture alone, merely looking like a
    photograph would count as a leak.
    """
    tested = [name for name in TESTED if any(contrast.control != NO_UPDATE for contrast in found.get(name, []))]
    return dict(zip(tested, holm([found[name][0].p for name in tested]), strict=True))


def can_tell(pictures: int, tests: int) -> bool:
    """Whether so few pictures could give a p-value of `ALPHA` at all: the smallest is one in ``2^pictures``."""
    return tests > 0 and tests * 0.5**pictures <= ALPHA
