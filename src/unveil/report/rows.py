"""A row: what a report says about one obfuscation, over all its seeds. `pooling` makes rows from trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unveil.core.guarantees import PrivacyStatement
from unveil.core.reconstruction import Stop
from unveil.core.records import BASELINE, LayerChoice, Plausibility
from unveil.report.enhancer_gain import EnhancerGain
from unveil.report.levels import UNJUDGED, Verdict
from unveil.report.significance import Contrast
from unveil.report.statistics import Interval

FAMILIES, OTHER = ("none", "quantise", "sparsify", "low-rank", "perturb", "pipeline"), "other"
"""Families of obfuscations that have a marker of their own in charts, and the family that all others are drawn as."""

Curve = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one row.

    Args:
        mean: Mean over the pictures in the metric's unit, with its interval.
        blind: The same mean for the blind guess; None if it was not measured.
        gain: Mean difference to `null_best`, paired by picture, in the metric's unit; above zero where more came back.
        by_picture: Position in the batch, from 0 -> mean over the seeds; positions whose score is NaN are left out.
        null_best: Position in the batch -> the best score without the update: the blind guess's or a control's.
        contrasts: The metric against every control, the one that scores nearest to the row first.
        runs: For each seed position in the batch -> score.
        null_runs: Position in the batch -> the best score without the update under any seed.
    """

    mean: Interval
    blind: float | None
    gain: Interval | None
    by_picture: Mapping[int, float]
    null_best: Mapping[int, float]
    contrasts: Sequence[Contrast] = ()
    runs: Sequence[Mapping[int, float]] = ()
    null_runs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An original and the picture that one run rebuilt of it.

    Args:
        position: Place in the batch, from 0.
        seed: The run's seed.
        original: Path of the original, relative to the results folder; empty if none was kept.
        rebuilt: Path of the reconstruction, likewise.
        psnr: Its PSNR in dB; None if it was not measured.
        scores: All its scores that are numbers, by metric.
        confidence: The attack's confidence in it; None if it gave none.
        prior_only: Path of the picture that the enhancer drew from the label alone, likewise; empty if it uses none.
        unenhanced: The same picture before the enhancer; None without an enhancer.
    """

    position: int
    seed: int
    original: str
    rebuilt: str
    psnr: float | None
    scores: Mapping[str, float]
    confidence: float | None = None
    prior_only: str = ""
    unenhanced: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Everything that a report says about one client, training, obfuscation, attack, enhancer and threat model.

    Args:
        client, model, batch, attack, threat_model: As in `Trial.settings`.
        training: Likewise, without the noise that it adds.
        obfuscation: Likewise, after the local training where that adds noise.
        family: Family of the obfuscation, one of `FAMILIES`, or `other`.
        seeds: The seeds, in order of first appearance.
        pictures: Number of pictures in the batch.
        scores: Metric name -> score.
        wire_bits: Mean size of what was sent, in bits.
        raw_bits: Mean size of the same update as plain float32, in bits.
        seconds: Mean wall time of attack and enhancer, in seconds.
        iterations: Mean number of optimisation steps.
        peak_mib: Highest peak memory of any run, in MiB; None if it was not measured.
        stops: Why each run ended.
        curves: Seed and loss curve of each run.
        first: The pictures of the first seed, in batch order.
        most, least: The picture of any run with the highest and with the lowest PSNR; None without PSNR.
        assumptions: Facts that the attacker was granted, one sentence each.
        notes: What else a reader must know, one sentence each.
        confidence_rank: Rank correlation in [-1, 1] of the attack's confidence with PSNR over the pictures, mean over
            the seeds; None where the attack gives no confidence or there are fewer than three pictures.
        above: Metric -> p-value in [0, 1] of the difference to the nearest control, corrected for the number of
            metrics and of rows; empty without controls.
        compared: Number of rows that the p-values are corrected for, at least 1.
        enhancer: As in `Trial.settings`; empty for the attack's pictures.
        enhancer_gain: What the enhancer added; None for the attack's pictures.
        plausibility: Of a recorded update, what speaks for the pictures without the originals, that of the first seed;
            None for a simulated client.
        privacy: What is guaranteed of the update's differential privacy, as in `Trial`.
        chance: For each picture the probability of being found first without the update, as in `Trial`.
        cohort: Number of clients of whose updates the server sees only the mean.
        cohort_of: Name that the client shares with cohorts of other sizes, as in `Trial`.
        rounds: Number of rounds of the same client that were attacked together.
        rounds_of: Name that the client shares with those of other numbers of rounds, as in `Trial`.
        layers: The choice of layers, as in `Trial`.
        baseline: The row of the same attack without obfuscation; None if there is none, and for the baseline itself.
        cost: PSNR of the baseline minus PSNR of this row in dB, paired by picture; None without a baseline.
        verdict: The verdict; `summarise` sets it last, from the other fields.
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
    compared: int = 1
    enhancer: str = ""
    enhancer_gain: EnhancerGain | None = None
    plausibility: Plausibility | None = None
    privacy: tuple[PrivacyStatement, ...] = ()
    chance: tuple[float, ...] = ()
    cohort: int = 1
    cohort_of: str = ""
    rounds: int = 1
    rounds_of: str = ""
    layers: LayerChoice | None = None
    baseline: Row | None = None
    cost: Interval | None = None
    verdict: Verdict = UNJUDGED

    @property
    def section(self) -> tuple[str, ...]:
        """The settings that rows of one section share; only such rows are compared."""
        return (self.client, self.training, self.attack, self.enhancer, self.threat_model)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the attack without obfuscation."""
        return self.obfuscation == BASELINE

    @property
    def compression(self) -> float:
        """How many times smaller than float32 the update was sent; infinite if nothing was sent."""
        return self.raw_bits / self.wire_bits if self.wire_bits else math.inf
