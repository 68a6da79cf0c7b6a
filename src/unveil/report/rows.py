"""Trials to rows: what came back through one obfuscation, over all its seeds.

A picture's score is first averaged over the seeds, then the pictures are averaged: scores of one picture under several
seeds are not independent, and an interval that counted them as such would be too narrow. PSNR is never pooled over the
pixels of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean

from unveil.core.errors import UsageError
from unveil.core.records import Trial
from unveil.metrics.pixel import ROUNDING
from unveil.report.descriptions import measure
from unveil.report.enhancer_gain import Addition, addition
from unveil.report.significance import NO_UPDATE, Contrast, adjusted, contrasts
from unveil.report.statistics import Interval, bootstrap_mean, rank_correlation, wilson

BASELINE = "none"
FAMILIES, OTHER = ("none", "quantise", "sparsify", "perturb", "pipeline"), "other"
"""Families of obfuscations that charts tell apart, and what every other one is drawn as."""

CEILING = {"psnr": -10 * math.log10(ROUNDING)}
"""Results of other tools may hold an infinite PSNR; it counts as the metric here counts an exact copy."""

KEYS = ("client", "training", "attack", "enhancer", "threat_model", "obfuscation")
"""Settings that tell rows apart."""

Curve = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one row.

    Args:
        mean: Mean over the pictures, with its interval.
        floor: The same mean for a blind guess that never saw the update; None if it was not measured.
        gain: Score minus what was scored without knowing the picture, by the blind guess or the best of the controls,
            paired by picture; above zero where more came back than from nothing.
        by_picture: Position in the batch -> mean over the seeds; what is NaN is left out.
        floor_by_picture: The same for the blind guess or, where it is better, a control.
        contrasts: The measure against every control, that which explains most of it away first.
    """

    mean: Interval
    floor: float | None
    gain: Interval | None
    by_picture: Mapping[int, float]
    floor_by_picture: Mapping[int, float]
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
        alone: Path of what the enhancer drew from the label alone, likewise; empty if it uses no labels.
        before: The same picture before the enhancer; None without one.
    """

    position: int
    seed: int
    original: str
    rebuilt: str
    psnr: float | None
    scores: Mapping[str, float]
    alone: str = ""
    before: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One client, training, obfuscation, attack, enhancer and knowledge: everything the report says about it.

    Args:
        client, model, batch, training, obfuscation, attack, knowledge: As in `Trial.settings`.
        family: Family of the obfuscation, one of `FAMILIES`, or `other`.
        seeds: The seeds, in order of first appearance.
        pictures: Number of pictures in the batch.
        scores: Metric name -> score.
        wire_bits: Mean size of what was sent, in bits.
        raw_bits: Mean size of the same as plain float32, in bits.
        seconds: Mean wall time of the attack.
        iterations: Mean number of optimisation steps.
        peak_mib: Highest peak memory of any run, MiB; None if it was not measured.
        stops: Why each run ended, a sentence each.
        curves: Seed and loss curve of each run.
        first: The pictures of the first seed, in batch order.
        most, least: The picture of any run with the highest and with the lowest PSNR; None without PSNR.
        assumptions: What was granted to the attacker, a sentence each.
        notes: What else a reader must know, a sentence each.
        sureness: Rank correlation of the attack's own confidence with the PSNR, over pictures, mean over the seeds;
            None where the attack gave none or there are too few pictures.
        above: Measure -> p-value of as much above every control by chance, corrected for the number of measures;
            empty without controls.
        enhancer: As in `Trial.settings`; empty without one.
        addition: What the enhancer added; None without one.
        control: The row of the same attack on the bare update; None if there is none, and for the control itself.
        cost: PSNR of the control minus PSNR of this row, paired by picture, in dB; None without a control.
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
    stops: tuple[str, ...]
    curves: tuple[tuple[int, Curve], ...]
    first: tuple[Picture, ...]
    most: Picture | None
    least: Picture | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    sureness: float | None = None
    above: Mapping[str, float] = field(default_factory=dict)
    enhancer: str = ""
    addition: Addition | None = None
    control: Row | None = None
    cost: Interval | None = None

    @property
    def section(self) -> tuple[str, ...]:
        """What rows must share to be compared with one another."""
        return (self.client, self.training, self.attack, self.enhancer, self.threat_model)

    @property
    def is_control(self) -> bool:
        """Whether this is the attack on the bare update."""
        return self.obfuscation == BASELINE

    @property
    def compression(self) -> float:
        """How many times smaller than float32 the update was sent; infinite if nothing was sent."""
        return self.raw_bits / self.wire_bits if self.wire_bits else math.inf


def summarise(trials: Sequence[Trial]) -> list[Row]:
    """One row for each client, training, obfuscation, attack, enhancer and knowledge, the control first in its section.

    A trial with an enhancer is two results: an enhancer that spoils the attack's pictures must not make an obfuscation
    look safer than it is.

    Args:
        trials: In any order; seeds of the same settings are pooled.

    Raises:
        UsageError: Trials of the same settings disagree about the number of pictures.
    """
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in chain.from_iterable(map(_with_before, trials)):
        key = tuple(trial.settings.get(name, "") for name in KEYS)
        groups.setdefault(key, []).append(trial)
    rows = [_row(group) for group in groups.values()]
    controls = {row.section: row for row in rows if row.is_control}
    order = {section: place for place, section in enumerate(dict.fromkeys(row.section for row in rows))}
    rows.sort(key=lambda row: (order[row.section], not row.is_control))
    return [row if row.is_control else _beside(row, controls.get(row.section)) for row in rows]


def _with_before(trial: Trial) -> list[Trial]:
    """What the attack itself achieved, where that was kept, and the trial."""
    before = None if trial.enhanced is None else trial.enhanced.before
    return [trial] if before is None else [before, trial]


def _beside(row: Row, control: Row | None) -> Row:
    """The same row with its control, where there is one."""
    if control is None:
        return row
    cost = None
    if "psnr" in row.scores and "psnr" in control.scores:
        cost = _paired(control.scores["psnr"].by_picture, row.scores["psnr"].by_picture)
    return replace(row, control=control, cost=cost)


def _row(trials: list[Trial]) -> Row:
    first, settings = trials[0], trials[0].settings
    sizes = {len(values) for trial in trials for values in trial.scores.values()}
    if len(sizes) > 1:
        raise UsageError(
            f"results: the trials of client {settings.get('client')!r} with obfuscation "
            f"{settings.get('obfuscation')!r} hold batches of different sizes "
            f"({', '.join(map(str, sorted(sizes)))}); give each batch size a client of its own"
        )
    scores = {name: score for name in first.scores if (score := _score(name, trials)) is not None}
    shown = [picture for trial in trials for picture in _pictures(trial)]
    ranked = sorted((p for p in shown if p.psnr is not None), key=lambda p: p.psnr or 0.0)
    peaks = [trial.peak_mib for trial in trials if trial.peak_mib is not None]
    notes = list(dict.fromkeys(note for trial in trials for note in trial.notes))
    if any(math.isnan(value) for trial in trials for values in trial.scores.values() for value in values):
        notes.append("Scores that are NaN were left out of the means.")
    return Row(
        client=settings.get("client", ""),
        model=settings.get("model", ""),
        batch=settings.get("batch", ""),
        training=settings.get("training", ""),
        obfuscation=settings.get("obfuscation", ""),
        attack=settings.get("attack", ""),
        threat_model=settings.get("threat_model", ""),
        family=_family(first.family),
        seeds=tuple(dict.fromkeys(trial.seed for trial in trials)),
        pictures=max(sizes, default=len(first.images)),
        scores=scores,
        wire_bits=fmean(trial.wire_bits for trial in trials),
        raw_bits=fmean(trial.raw_bits for trial in trials),
        seconds=fmean(trial.seconds for trial in trials),
        iterations=fmean(trial.iterations for trial in trials),
        peak_mib=max(peaks, default=None),
        stops=tuple(trial.stop for trial in trials),
        curves=tuple((trial.seed, tuple(trial.losses)) for trial in trials),
        first=tuple(_pictures(first)),
        most=ranked[-1] if ranked else None,
        least=ranked[0] if ranked else None,
        assumptions=tuple(dict.fromkeys(text for trial in trials for text in trial.assumptions)),
        notes=tuple(notes),
        sureness=_sureness(trials),
        enhancer=settings.get("enhancer", ""),
        addition=addition(trials),
        above=adjusted({name: list(score.contrasts) for name, score in scores.items()}),
    )


def _score(name: str, trials: list[Trial]) -> Score | None:
    """The pooled score, or None where not one picture has a number."""
    values = _by_picture(name, [trial.scores[name] for trial in trials if name in trial.scores])
    floors = _by_picture(name, [trial.floor[name] for trial in trials if name in trial.floor])
    if not values:
        return None
    shown = measure(name)
    controls = _controls(name, trials)
    best = max if shown.leak == "high" else min
    bars = {at: best([value, *(c[at] for c in controls.values() if at in c)]) for at, value in floors.items()}
    better, worse = (values, bars) if shown.leak == "high" else (bars, values)
    return Score(
        mean=wilson(sum(values.values()), len(values)) if shown.is_rate else bootstrap_mean(list(values.values())),
        floor=fmean(floors.values()) if floors else None,
        gain=_paired(better, worse),
        by_picture=values,
        floor_by_picture=bars,
        contrasts=contrasts(name, values, {NO_UPDATE: floors, **controls}) if controls else (),
    )


def _controls(name: str, trials: list[Trial]) -> dict[str, dict[int, float]]:
    """Control -> position in the batch -> the measure there, mean over the seeds; controls that all trials have."""
    there = [control for control in trials[0].controls if all(control in trial.controls for trial in trials)]
    found = {c: _by_picture(name, [t.controls[c][name] for t in trials if name in t.controls[c]]) for c in there}
    return {control: values for control, values in found.items() if values}


def _sureness(trials: list[Trial]) -> float | None:
    """Mean over the runs of the rank correlation of confidence and PSNR; three pictures are the fewest to rank."""
    found = [rank_correlation(trial.confidence, trial.scores["psnr"]) for trial in trials if "psnr" in trial.scores]
    known = [value for value in found if value is not None]
    return fmean(known) if known else None


def _by_picture(name: str, runs: list[list[float]]) -> dict[int, float]:
    """Each picture's mean over the runs."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for position, value in enumerate(run):
            capped = min(value, CEILING.get(name, math.inf))
            if math.isfinite(capped):
                values.setdefault(position, []).append(capped)
    return {position: fmean(values[position]) for position in sorted(values)}


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """Mean difference over the pictures that both have."""
    differences = [value - other[position] for position, value in one.items() if position in other]
    return bootstrap_mean(differences) if differences else None


def _pictures(trial: Trial) -> list[Picture]:
    values = trial.scores.get("psnr", [])
    size = max(len(values), len(trial.images))
    alone, before = [], []
    if trial.enhanced is not None:
        alone = trial.enhanced.alone
        before = _pictures(trial.enhanced.before) if trial.enhanced.before is not None else []
    return [
        Picture(
            position=position,
            seed=trial.seed,
            original=trial.originals[position] if position < len(trial.originals) else "",
            rebuilt=trial.images[position] if position < len(trial.images) else "",
            psnr=values[position] if position < len(values) and not math.isnan(values[position]) else None,
            scores={
                name: scores[position]
                for name, scores in trial.scores.items()
                if position < len(scores) and math.isfinite(scores[position])
            },
            alone=alone[position] if position < len(alone) else "",
            before=before[position] if position < len(before) else None,
        )
        for position in range(size)
    ]


def _family(family: str) -> str:
    """The family that the trial names, if charts have a marker for it."""
    return family if family in FAMILIES else OTHER
