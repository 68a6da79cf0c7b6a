"""Leakage above the controls: how much better the attack scores with the client's update than without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unveil.metrics import facts_of
from unveil.report.statistics import Interval, benjamini_hochberg, bootstrap_mean, holm, sign_flip_test

NO_UPDATE = "no update"
ALPHA = 0.05
"""Largest p-value that counts as leakage, after the corrections over the metrics of a row and over the rows."""

TESTED = ("psnr", "ssim", "correlation", "lpips", "semantic_jaccard", "feature_similarity", "reid_rank")
"""The tested metrics, one for each kind of leakage: Holm's correction makes every further test weaken the others."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One metric of one row against one control.

    Args:
        control: The control's name.
        value: Mean of the metric over the control's pictures, in its unit.
        above: Mean difference to the control, paired by picture, in the metric's unit; above zero where the update
            leaks.
        p: One-sided p-value in [0, 1] of the mean difference, by sign flips over the pictures.
    """

    control: str
    value: float
    above: Interval
    p: float


def contrasts(name: str, values: Mapping[int, float], controls: Mapping[str, Mapping[int, float]]) -> list[Contrast]:
    """A metric against every control that has it, the control with the largest p-value first.

    Args:
        name: Name of the metric.
        values: Position in the batch -> score.
        controls: Control -> position in the batch -> score.
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
    """Corrected p-value of each tested metric against the control that scores nearest.

    Empty where no control but the blind guess was run: against a grey picture, anything that looks like a photograph
    would count as a leak.
    """
    tested = [name for name in TESTED if any(contrast.control != NO_UPDATE for contrast in found.get(name, []))]
    return dict(zip(tested, holm([found[name][0].p for name in tested]), strict=True))


def across_rows(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Correct the p-values of several rows for their number, as Benjamini and Hochberg do.

    Of many rows in which nothing leaks some would have a small p-value by chance. A row's p-value is the smallest of
    its metrics'; every metric's is enlarged by the factor by which that one is.

    Args:
        rows: For each row metric -> p-value, corrected for the number of metrics; empty for a row without controls.
    """
    lowest = [min(row.values()) for row in rows if row]
    corrected = iter(zip(lowest, benjamini_hochberg(lowest), strict=True))
    found: list[dict[str, float]] = []
    for row in rows:
        before, after = next(corrected) if row else (1.0, 1.0)
        found.append({name: min(p * after / before, 1.0) for name, p in row.items()})
    return found


def can_tell(pictures: int, tests: int) -> bool:
    """Whether this number of pictures can give a p-value of `ALPHA`: the smallest possible one is ``2^-pictures``.

    Args:
        pictures: Number of pictures.
        tests: Number of tests that the p-value is corrected for: metrics times rows.
    """
    return tests > 0 and tests * 0.5**pictures <= ALPHA
