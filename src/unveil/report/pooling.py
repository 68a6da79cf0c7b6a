"""From trials to rows: pool the scores of one obfuscation over its seeds and pictures.

Scores are averaged over the seeds first, then over the pictures: the scores of one picture under several seeds are not
independent, and counting them as independent would make the interval too narrow. PSNR is never pooled over the pixels
of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from unveil.core.errors import UsageError
from unveil.core.records import ATTACK, BASELINE, ScoredOutcome, Trial
from unveil.metrics import facts_of, remember
from unveil.metrics.pixel import ROUNDING
from unveil.report.enhancer_gain import enhancer_gain
from unveil.report.rows import FAMILIES, OTHER, Picture, Row, Score
from unveil.report.significance import NO_UPDATE, across_rows, adjusted, contrasts
from unveil.report.statistics import Interval, bootstrap_mean, rank_correlation, wilson
from unveil.report.verdict import judge

CEILING = {"psnr": -10 * math.log10(ROUNDING)}
"""Largest value of a metric in a mean: an infinite PSNR counts as that of 8-bit rounding."""

SETTINGS = ("client", "training", "attack", "threat_model", "obfuscation")
"""Settings that rows differ in, beside the enhancer."""

LONGEST = 10
"""Digits from which a number of clients is not believed."""

NOISY = "perturb"
"""Family of what a local training that adds noise does to an update."""


@dataclass(frozen=True)
class _Run:
    """One outcome of one trial: one run of a row."""

    trial: Trial
    outcome: ScoredOutcome

    @property
    def settings(self) -> Mapping[str, str]:
        return self.trial.settings

    @property
    def enhancer(self) -> str:
        return "" if self.outcome.enhancement is None else self.settings.get("enhancer", "")

    @property
    def scores(self) -> Mapping[str, list[float]]:
        return self.outcome.scores


def summarise(trials: Sequence[Trial]) -> list[Row]:
    """One row for each client, training, obfuscation, attack, enhancer and threat model, each with its verdict.

    The baseline is the first row of its section. A trial with an enhancer gives two rows, so that an enhancer which
    makes pictures worse does not make an obfuscation look safer.

    Args:
        trials: In any order; trials that differ only in their seed are pooled.

    Raises:
        UsageError: Trials of the same settings disagree about the number of pictures.
    """
    for trial in trials:
        remember(trial.metrics)
    groups: dict[tuple[str, ...], list[_Run]] = {}
    for run in (_Run(trial, outcome) for trial in trials for outcome in trial.outcomes.values()):
        key = (run.enhancer, *(run.settings.get(name, "") for name in SETTINGS))
        groups.setdefault(key, []).append(run)
    rows = _corrected([_row(group) for group in groups.values()])
    baselines = {row.section: _judged(row) for row in rows if row.is_baseline}
    order = {section: place for place, section in enumerate(dict.fromkeys(row.section for row in rows))}
    rows.sort(key=lambda row: (order[row.section], not row.is_baseline))
    return [baselines[row.section] if row.is_baseline else _beside(row, baselines.get(row.section)) for row in rows]


def _obfuscation(run: _Run) -> str:
    """What changed the update: the obfuscation, after the local training where that adds noise."""
    obfuscation = run.settings.get("obfuscation", "")
    if not run.trial.without_noise:
        return obfuscation
    training = run.settings.get("training", "")
    return training if obfuscation == BASELINE else f"{training}, then {obfuscation}"


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with p-values that are corrected for their number; baselines are a family of their own."""
    found = list(rows)
    for family in (True, False):
        places = [place for place, row in enumerate(rows) if row.is_baseline is family]
        tested = sum(bool(rows[place].above) for place in places)
        for place, above in zip(places, across_rows([rows[place].above for place in places]), strict=True):
            found[place] = replace(found[place], above=above, compared=max(tested, 1))
    return found


def _judged(row: Row) -> Row:
    return replace(row, verdict=judge(row))


def _beside(row: Row, baseline: Row | None) -> Row:
    """The row with its baseline, if there is one, and its verdict."""
    cost = None
    if baseline is not None and "psnr" in row.scores and "psnr" in baseline.scores:
        cost = _paired(baseline.scores["psnr"].by_picture, row.scores["psnr"].by_picture)
    return _judged(replace(row, baseline=baseline, cost=cost))


def _row(runs: list[_Run]) -> Row:
    first, settings = runs[0], runs[0].settings
    sizes = {len(values) for run in runs for values in run.scores.values()}
    if len(sizes) > 1:
        raise UsageError(
            f"results: the trials of client {settings.get('client')!r} with obfuscation "
            f"{settings.get('obfuscation')!r} hold batches of different sizes "
            f"({', '.join(map(str, sorted(sizes)))}); give each batch size a client of its own"
        )
    scores = {name: score for name in first.scores if (score := _score(name, runs)) is not None}
    shown = [picture for run in runs for picture in _pictures(run.trial, run.outcome)]
    ranked = sorted((p for p in shown if p.psnr is not None), key=lambda p: p.psnr or 0.0)
    peaks = [run.trial.peak_mib for run in runs if run.trial.peak_mib is not None]
    notes = list(dict.fromkeys(note for run in runs for note in run.outcome.notes))
    if any(math.isnan(value) for run in runs for values in run.scores.values() for value in values):
        notes.append("Scores that are NaN were left out of the means.")
    return Row(
        client=settings.get("client", ""),
        model=settings.get("model", ""),
        batch=settings.get("batch", ""),
        training=first.trial.without_noise or settings.get("training", ""),
        obfuscation=_obfuscation(first),
        attack=settings.get("attack", ""),
        threat_model=settings.get("threat_model", ""),
        family=_family(NOISY if first.trial.without_noise else first.trial.family),
        seeds=tuple(dict.fromkeys(run.trial.seed for run in runs)),
        pictures=max(sizes, default=len(first.outcome.labels) or len(first.outcome.images)),
        scores=scores,
        wire_bits=fmean(run.trial.wire_bits for run in runs),
        raw_bits=fmean(run.trial.raw_bits for run in runs),
        seconds=fmean(run.outcome.seconds for run in runs),
        iterations=fmean(run.trial.iterations for run in runs),
        peak_mib=max(peaks, default=None),
        stops=tuple(run.trial.stop for run in runs),
        curves=tuple((run.trial.seed, tuple(run.trial.losses)) for run in runs),
        first=tuple(_pictures(first.trial, first.outcome)),
        most=ranked[-1] if ranked else None,
        least=ranked[0] if ranked else None,
        assumptions=tuple(dict.fromkeys(text for run in runs for text in run.outcome.assumptions)),
        notes=tuple(notes),
        confidence_rank=_confidence_rank(runs),
        enhancer=first.enhancer,
        enhancer_gain=enhancer_gain([run.trial for run in runs]) if first.enhancer else None,
        privacy=tuple(first.trial.privacy),
        chance=tuple(first.trial.chance),
        cohort=_number(settings.get("cohort", "")),
        cohort_of=first.trial.cohort_of,
        rounds=_number(settings.get("rounds", "")),
        rounds_of=first.trial.rounds_of,
        layers=first.trial.layers,
        plausibility=first.outcome.plausibility,
        above=adjusted({name: list(score.contrasts) for name, score in scores.items()}),
    )


def _score(name: str, runs: list[_Run]) -> Score | None:
    """The pooled score of one metric; None where no picture has a finite score."""
    values = _by_picture(name, [run.scores[name] for run in runs if name in run.scores])
    blind = _by_picture(name, [run.trial.blind[name] for run in runs if name in run.trial.blind])
    if not values:
        return None
    shown = facts_of(name)
    controls = _controls(name, runs)
    best = max if shown.leak == "high" else min
    null_best = {at: best([value, *(c[at] for c in controls.values() if at in c)]) for at, value in blind.items()}
    by_run = [found for run in runs if (found := _by_picture(name, [run.scores[name]] if name in run.scores else []))]
    nulls = {at: [*([blind[at]] if at in blind else []), *_null_of_any_run(name, runs, at)] for at in values}
    better, worse = (values, null_best) if shown.leak == "high" else (null_best, values)
    return Score(
        mean=wilson(sum(values.values()), len(values)) if shown.is_rate else bootstrap_mean(list(values.values())),
        blind=fmean(blind.values()) if blind else None,
        gain=_paired(better, worse),
        by_picture=values,
        null_best=null_best,
        contrasts=contrasts(name, values, {NO_UPDATE: blind, **controls}) if controls else (),
        runs=tuple(by_run),
        null_runs={at: best(scores) for at, scores in nulls.items() if scores},
    )


def _controls(name: str, runs: list[_Run]) -> dict[str, dict[int, float]]:
    """Control -> position in the batch -> score, mean over the seeds; only controls that every run has."""
    tables = [run.outcome.controls for run in runs]
    common = [control for control in tables[0] if all(control in table for table in tables)]
    by_control = {c: _by_picture(name, [t[c][name] for t in tables if name in t[c]]) for c in common}
    return {control: values for control, values in by_control.items() if values}


def _null_of_any_run(name: str, runs: list[_Run], position: int) -> list[float]:
    """The finite scores of one picture by every control of every run."""
    tables = [scores[name] for run in runs for scores in run.outcome.controls.values() if name in scores]
    return [table[position] for table in tables if position < len(table) and math.isfinite(table[position])]


def _confidence_rank(runs: list[_Run]) -> float | None:
    """Rank correlation of confidence and PSNR, mean over the runs; None where no run has three pictures to rank."""
    ranks = [rank_correlation(run.outcome.confidence, run.scores["psnr"]) for run in runs if "psnr" in run.scores]
    numbers = [rank for rank in ranks if rank is not None]
    return fmean(numbers) if numbers else None


def _by_picture(name: str, runs: list[list[float]]) -> dict[int, float]:
    """Position in the batch -> mean over the runs of the finite scores."""
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


def _pictures(trial: Trial, outcome: ScoredOutcome) -> list[Picture]:
    """The pictures of one outcome, in batch order; those of an enhancer with the attack's own beside them."""
    enhancement = outcome.enhancement
    before = [] if enhancement is None else _pictures(trial, trial.outcomes[ATTACK])
    values = outcome.scores.get("psnr", [])
    return [
        Picture(
            position=position,
            seed=trial.seed,
            original=_path(trial.originals, position),
            rebuilt=_path(outcome.images, position),
            psnr=values[position] if position < len(values) and not math.isnan(values[position]) else None,
            scores={
                name: scores[position]
                for name, scores in outcome.scores.items()
                if position < len(scores) and math.isfinite(scores[position])
            },
            confidence=outcome.confidence[position] if position < len(outcome.confidence) else None,
            prior_only="" if enhancement is None else _path(enhancement.prior_only, position),
            unenhanced=before[position] if position < len(before) else None,
        )
        for position in range(max(len(values), len(outcome.images)))
    ]


def _path(paths: Sequence[str], position: int) -> str:
    """The path at a position; empty where there is none."""
    return paths[position] if position < len(paths) else ""


def _number(text: str) -> int:
    """A number of clients or rounds in a trial's settings, which anybody may have written; 1 where there is none."""
    return max(int(text), 1) if text.isascii() and text.isdecimal() and len(text) < LONGEST else 1


def _family(family: str) -> str:
    """The family if charts have a marker for it, else `other`."""
    return family if family in FAMILIES else OTHER
