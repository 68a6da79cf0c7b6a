"""What the report says about one obfuscation, over all its seeds; `pooling` makes it of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unveil.core.records import BASELINE
from unveil.core.types import Stop
from unveil.report.enhancer_gain import EnhancerGain
from unveil.report.levels import UNJUDGED, Verdict
from unveil.report.significance import Contrast
from unveil.report.statistics import Interval

FAMILIES, OTHER = ("none", "quantise", "sparsify", "low-rank", "perturb", "pipeline"), "other"
"""Families of obfuscations that charts tell apart, and what every other one is drawn as."""

Curve = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one row.

    Args:
        mean: Mean over the pictures, with its interval.
        blind: The same mean for a blind guess that never saw the update; None if it was not measured.
        gain: Score minus what was scored without knowing the picture, by the blind guess or the best of the controls,
            paired by picture; above zero where more came back than from nothing.
        by_picture: Position in the batch -> mean over the seeds; what is NaN is left out.
        null_best: The same for the blind guess or, where it is better, a control.
        contrasts: The metric against every control, that which explains most of it away first.
    """

    mean: Interval
    blind: float | None
    gain: Interval | None
    by_picture: Mapping[int, float]
    null_best: Mapping[int, float]
    contrasts: Sequence[Contrast] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An original beside what one run rebuilt of it.

    Args:
        position: Place in the batch, from 0.
        seed: The run's seed.
        original: Path of the original, relative to the results folder; empty if none was kept.
        rebuilt: Path of the reconstruction, likewise.
        psnr: Its PSNR in dB; None if it was not measured.
        scores: All its scores that are numbers, by metric.
        prior_only: Path of what the enhancer drew from the label alone, likewise; empty if it uses no labels.
        unenhanced: The same picture before the enhancer; None without one.
    """

    position: int
    seed: int
    original: str
    rebuilt: str
    psnr: float | None
    scores: Mapping[str, float]
    prior_only: str = ""
    unenhanced: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One client, training, obfuscation, attack, enhancer and threat model: everything the report says about it.

    Args:
        client, model, batch, training, obfuscation, attack, threat_model: As in `Trial.settings`.
        family: Family of the obfuscation, one of `FAMILIES`, or `other`.
        seeds: The seeds, in order of first appearance.
        pictures: Number of pictures in the batch.
        scores: Metric name -> score.
        wire_bits: Mean size of what was sent, in bits.
        raw_bits: Mean size of the same as plain float32, in bits.
        seconds: Mean wall time until the pictures were there, enhancer included.
        iterations: Mean number of optimisation steps.
        peak_mib: Highest peak memory of any run, MiB; None if it was not measured.
        stops: Why each run ended.
        curves: Seed and loss curve of each run.
        first: The pictures of the first seed, in batch order.
        most, least: The picture of any run with the highest and with the lowest PSNR; None without PSNR.
        assumptions: What was granted to the attacker, a sentence each.
        notes: What else a reader must know, a sentence each.
        confidence_rank: Rank correlation of the attack's own confidence with the PSNR, over pictures, mean over the
            seeds; None where the attack gave none or there are too few pictures.
        above: Metric -> p-value of as much above every control by chance, corrected for the number of metrics;
            empty without controls.
        enhancer: As in `Trial.settings`; empty for the attack's own pictures.
        enhancer_gain: What the enhancer added; None for the attack's own pictures.
        baseline: The row of the same attack on the bare update; None if there is none, and for the baseline itself.
        cost: PSNR of the baseline minus PSNR of this row, paired by picture, in dB; None without a baseline.
        verdict: What may be said about the row; `summarise` sets it last, from everything above.
    """

    client: str
    model: str
    batch: str
    training: str
    obfuscation: str
    attack: str
    threat_model: str
    family: str
    seeds: tuple[int, ...]
    pictures: int
    scores: Mapping[str, Score]
    wire_bits: float
    raw_bits: float
    seconds: float
    iterations: float
    peak_mib: float | None
    stops: tuple[Stop, ...]
    curves: tuple[tuple[int, Curve], ...]
    first: tuple[Picture, ...]
    most: Picture | None
    least: Picture | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    confidence_rank: float | None = None
    above: Mapping[str, float] = field(default_factory=dict)
    enhancer: str = ""
    enhancer_gain: EnhancerGain | None = None
    baseline: Row | None = None
    cost: Interval | None = None
    verdict: Verdict = UNJUDGED

    @property
    def section(self) -> tuple[str, ...]:
        """What rows must share to be compared with one another."""
        return (self.client, self.training, self.attack, self.enhancer, self.threat_model)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the attack on the bare update."""
        return self.obfuscation == BASELINE

    @property
    def compression(self) -> float:
        """How many times smaller than float32 the update was sent; infinite if nothing was sent."""
        return self.raw_bits / self.wire_bits if self.wire_bits else math.inf
