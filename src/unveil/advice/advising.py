"""From a federation, candidates and a target to assessments: every setting is trained and attacked for real."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unveil.advice import folder as kept_in
from unveil.advice.assessment import Assessment, cost_of
from unveil.advice.attacking import Executors, audited, in_this_process
from unveil.advice.candidates import Candidate, search
from unveil.advice.federation import FederatedRun, Federation
from unveil.advice.trainers import PLAIN, Trainer
from unveil.advice.training import train
from unveil.advice.updates import Auditing
from unveil.audits.progress import AuditProgress
from unveil.core.errors import UsageError, writing
from unveil.core.files import make_folder
from unveil.core.locks import locked
from unveil.core.records import BASELINE
from unveil.gate.conditions import Condition
from unveil.gate.judging import Ruling
from unveil.obfuscations import parse

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is asked.

    Args:
        federation: The federation.
        auditing: How its updates are attacked.
        target: The condition under which the target is missed.
        candidates: The candidates.
        steps: Most steps of the bisection of a range.
        trainer: What trains the federation.
    """

    federation: Federation
    auditing: Auditing
    target: Condition
    candidates: Sequence[Candidate]
    steps: int
    trainer: Trainer = PLAIN


@dataclass(frozen=True, kw_only=True, eq=False)
class Advice:
    """What was found.

    Args:
        question: What was asked.
        baseline: The federation without obfuscation.
        assessments: The settings that were tried, in the order in which they were.
        left_out: Candidates that were not decided because the budget was used up.
    """

    question: Question
    baseline: Assessment
    assessments: Sequence[Assessment]
    left_out: Sequence[Candidate] = ()

    @property
    def trainers(self) -> tuple[str, ...]:
        """What trained the federations, with versions: several where the folder had trainings before."""
        runs = [run for one in (self.baseline, *self.assessments) for run in one.runs]
        return tuple(dict.fromkeys(run.trainer for run in runs))


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Whom to tell how far the work is.

    Args:
        on_training: Called with an obfuscation, a seed, and the number of finished rounds.
        on_progress: Called with every `AuditProgress`; None for no reports.
        on_assessment: Called with each assessment.
    """

    on_training: Callable[[str, int, int], None] = lambda obfuscation, seed, rounds: None
    on_progress: Callable[[AuditProgress], None] | None = None
    on_assessment: Callable[[Assessment], None] = lambda assessment: None


def advise(
    question: Question,
    folder: Path,
    *,
    budget: float | None = None,
    expected: float = 0.0,
    listener: Listener | None = None,
    clock: Clock = time.perf_counter,
    command: str = "",
    executors: Executors = in_this_process,
) -> Advice:
    """Try the baseline, then every candidate; candidates take turns, so that a budget is not used up by the first.

    Args:
        question: What is asked.
        folder: The folder of the advice; what is finished there is not run again.
        budget: Seconds in which all is to be done; no setting is begun that would end later. None for no limit.
        expected: Seconds that a setting is expected to take before one has been timed.
        listener: Whom to tell how far the work is; None for nobody.
        clock: Returns the time in seconds.
        command: The command that runs this, which the results keep.
        executors: What runs the trials of each setting.

    Raises:
        UsageError: The training diverges without any obfuscation, a component cannot be used, or the folder cannot be
            written.
    """
    with writing(folder, "--out"):
        make_folder(folder, private=True)
    with locked(folder, fix="wait until it has ended, or choose another folder with --out"):
        work = _Work(
            question=question, folder=folder, listener=listener or Listener(), command=command, executors=executors
        )
        return _advised(work, budget, expected, clock)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What all settings share; as in `advise`."""

    question: Question
    folder: Path
    listener: Listener
    command: str
    executors: Executors


def _advised(work: _Work, budget: float | None, expected: float, clock: Clock) -> Advice:
    question, federation = work.question, work.question.federation
    start, taken = clock(), list[float]()
    bare = _trained(work, BASELINE)
    if diverged := [run.diverged for run in bare if run.diverged is not None]:
        raise UsageError(
            f"federation: without any obfuscation the training diverges in round {min(diverged)}; lower lr or server_lr"
        )
    baseline = _found(work, BASELINE, "", bare, bare)
    if baseline.ruling is Ruling.UNJUDGED:
        return Advice(question=question, baseline=baseline, assessments=())
    assessments: list[Assessment] = []
    met: dict[str, bool | None] = {}
    waiting = list(question.candidates)
    while waiting:
        candidate = waiting.pop(0)
        setting = search(candidate, met, question.steps).setting
        if setting is None:
            continue
        needed = max(taken, default=expected) if _is_new(federation, setting, work.folder) else 0.0
        if budget is not None and clock() - start + needed > budget:
            return Advice(
                question=question,
                baseline=baseline,
                assessments=assessments,
                left_out=[candidate, *_open(waiting, met, question)],
            )
        begun = clock()
        assessment = _found(work, setting, candidate.text, _trained(work, setting), baseline.runs)
        if needed:
            taken.append(clock() - begun)
        met[setting] = assessment.decided
        assessments.append(assessment)
        waiting.append(candidate)
    return Advice(question=question, baseline=baseline, assessments=assessments)


def _open(candidates: Sequence[Candidate], met: dict[str, bool | None], question: Question) -> list[Candidate]:
    """The candidates that still have a setting to try."""
    return [one for one in candidates if search(one, met, question.steps).setting is not None]


def _is_new(federation: Federation, obfuscation: str, folder: Path) -> bool:
    """Whether the federation was not yet trained through an obfuscation with every seed."""
    keys = (kept_in.key_of(federation, obfuscation, seed) for seed in federation.seeds)
    return any(kept_in.kept(folder, key) is None for key in keys)


def _trained(work: _Work, obfuscation: str) -> list[FederatedRun]:
    """The federation trained through an obfuscation with each seed, from the folder if it is there."""
    federation, trainer, component = work.question.federation, work.question.trainer, parse(obfuscation)
    keys = {seed: kept_in.key_of(federation, obfuscation, seed) for seed in federation.seeds}
    found = {seed: kept_in.kept(work.folder, key) for seed, key in keys.items()}
    runs = {seed: run for seed, run in found.items() if run is not None}
    if len(runs) == len(keys):
        return list(runs.values())
    with trainer.ready(federation, component) as rounds_of:
        for seed in [seed for seed in keys if seed not in runs]:
            run = train(
                federation,
                component,
                seed=seed,
                rounds=rounds_of(seed),
                on_round=lambda rounds, seed=seed: work.listener.on_training(obfuscation, seed, rounds),  # type: ignore[misc]
            )
            runs[seed] = replace(run, trainer=trainer.name)
            kept_in.keep(work.folder, keys[seed], runs[seed])
    return [runs[seed] for seed in keys]


def _found(
    work: _Work, obfuscation: str, candidate: str, runs: Sequence[FederatedRun], bare: Sequence[FederatedRun]
) -> Assessment:
    """A setting's assessment, after its updates were attacked; its runs are kept without their weights."""
    question, component, leakage = work.question, parse(obfuscation), None
    if all(run.diverged is None for run in runs):
        leakage = audited(
            question.federation,
            runs,
            component,
            question.auditing,
            question.target,
            work.folder / kept_in.AUDITS,
            on_progress=work.listener.on_progress,
            command=work.command,
            executors=work.executors,
        )
    assessment = Assessment(
        obfuscation=obfuscation,
        candidate=candidate,
        family=component.family,
        runs=[replace(run, weights={}) for run in runs],
        leakage=leakage,
        cost=cost_of(runs, bare),
        classes=question.federation.data.classes,
    )
    work.listener.on_assessment(assessment)
    return assessment
