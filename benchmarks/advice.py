"""Whether the setting that studies/advice.toml names holds its target on other pictures, batches and seeds.

    python -m benchmarks.unpack
    unveil advise studies/advice.toml --workers 2 --out advice/quickstart
    unveil advise studies/advice.toml --workers 2 --out advice/resnet8 --set ...    # the settings stand in that file
    python -m benchmarks run advice --audit advice

Each re-audit trains a federation with a seed of its own on pictures of which the study had none, through the setting,
and attacks all its clients in its first, middle and last round. The setting is the cheapest of those that a range was
searched for; the other one is the next weaker one of that search, which missed the target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks.frame import DOCS, ROOT, Benchmark, Block, Places, Result, Results
from unveil.advice.advising import Question
from unveil.advice.candidates import Range, parse_candidates, search
from unveil.advice.training import train
from unveil.advice.updates import attacked_client, with_weights
from unveil.audits.trial import run_trial
from unveil.cli.advice_config import load_question
from unveil.obfuscations import parse
from unveil.report.statistics import wilson

STUDY = ROOT / "studies" / "advice.toml"
NETWORKS: Mapping[str, Sequence[str]] = {
    "quickstart": (),
    "resnet8": (
        "federation.model=networks:ResNet8",
        "federation.batch=8",
        "federation.training=fedavg:steps=1,lr=0.1",
        "federation.rounds=100",
    ),
}
"""Name of an advice's folder -> what is set beside the file."""

RUNS, FIRST, LIMIT = 40, 1000, 0.05
Role = Literal["named", "weaker"]
WORDS: Mapping[Role, str] = {"named": "the cheapest", "weaker": "the next weaker one"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One re-audit, or what the advice found where `role` is empty.

    Args:
        network: One of `NETWORKS`.
        role: Which setting.
        number: Number of the re-audit, from 0.
    """

    network: str
    role: Role | Literal[""] = ""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.network}; {self.role} {self.number}" if self.role else f"{self.network}; found"


CASES = tuple(
    case
    for network in NETWORKS
    for case in (
        Case(network=network),
        *(Case(network=network, role=role, number=number) for number in range(RUNS) for role in WORDS),
    )
)


def settings_of(found: Mapping[str, Any]) -> dict[Role, str]:
    """The cheapest setting of a range that has a next weaker one, and that one, which misses the target; or nothing."""
    met = {one["obfuscation"]: VERDICTS[one["verdict"]] for one in found["assessments"]}
    passed = [one for one in found["assessments"] if met[one["obfuscation"]]]
    for one in sorted(passed, key=lambda one: (-round(one["accuracy"], 3), one["wire_bytes"])):
        for candidate in parse_candidates(found["candidates"]):
            ended = search(candidate, met, found["steps"])
            if isinstance(candidate, Range) and ended.enough == one["obfuscation"] and ended.fails is not None:
                return {"named": ended.enough, "weaker": ended.fails}
    return {}


VERDICTS = {"passed": True, "exceeded": False, "not judged": None}


def run(case: Case, places: Places) -> Result:
    """What the advice found; or of each attacked picture of a re-audit, by phase, whether it was found first."""
    found = read(places, case.network)
    if not case.role:
        keys = ("obfuscation", "verdict", "accuracy", "wire_bytes", "leakage")
        return {"answer": found["answer"], "assessments": [{k: one[k] for k in keys} for one in found["assessments"]]}
    setting = settings_of(found)[case.role]
    return {"setting": setting, **reaudited(question_of(case.network, case.number), setting, case.number)}


def reaudited(question: Question, setting: str, number: int) -> dict[str, Any]:
    """Train through a setting, and attack every client in every phase."""
    federation, obfuscation = question.federation, parse(setting)
    (seed,) = federation.seeds
    trained = train(federation, obfuscation, seed=seed)
    hits: dict[str, list[float]] = {}
    for phase in trained.weights:
        model = with_weights(federation.starts[seed], trained, phase)
        for client in range(question.auditing.clients):
            attacked = attacked_client(federation, trained, phase, client, model=model)
            (attack,) = question.auditing.attacks
            metrics = question.auditing.metrics(attacked)
            trial = run_trial(attacked, obfuscation, attack, seed=FIRST + number, metrics=metrics)
            hits.setdefault(phase, []).extend(trial.scores["reid_top1"])
    return {"found": hits, "accuracy": trained.final}


@cache
def read(places: Places, network: str) -> dict[str, Any]:
    """What an advice found."""
    assert places.audit is not None
    found: dict[str, Any] = json.loads((places.audit / network / "advice.json").read_text(encoding="utf-8"))
    return found


def question_of(network: str, number: int) -> Question:
    """The question of the study about other pictures, which another seed chooses, and another federation."""
    seed = FIRST + number
    other = ("federation.images=pictures/cifar10-others", f"federation.seed={seed}", f"federation.seeds=[{seed}]")
    return load_question(STUDY, (*NETWORKS[network], *other))


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    if places.audit is None or not Path(places.audit, case.network, "advice.json").is_file():
        return f"run the advice into a folder {case.network}, and name the folder around it with --audit"
    if case.role and not settings_of(read(places, case.network)):
        return "no range of the advice has both a setting that meets the target and one that misses it"
    there = (STUDY.parent / "pictures" / "cifar10-others").is_dir()
    return "" if there or not case.role else "the pictures are not unpacked; run python -m benchmarks.unpack"


def table(results: Results) -> str:
    """A line for each network and setting."""
    lines = [
        "| network | setting | | at most 5 % found in every round | found in the worst round, all together |",
        "|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        for role, words in WORDS.items():
            keys = [str(Case(network=network, role=role, number=number)) for number in range(RUNS)]
            made = [results[key] for key in keys if key in results]
            if not made:
                continue
            held = sum(all(sum(hits) <= LIMIT * len(hits) for hits in one["found"].values()) for one in made)
            by_phase = [[hit for one in made for hit in one["found"].get(phase, [])] for phase in made[0]["found"]]
            worst = max((wilson(sum(hits), len(hits)) for hits in by_phase if hits), key=lambda share: share.mean)
            lines.append(
                f"| {network} | `{made[0]['setting']}` | {words} | {held} of {len(made)} | "
                f"{worst.mean:.1%} [{worst.low:.1%}, {worst.high:.1%}] |"
            )
    return "\n".join(lines if len(lines) > 2 else ["The settings were not audited again yet."]) + "\n"


def answers(results: Results) -> str:
    """What each advice answered, and a line for each setting."""
    found = []
    for network in NETWORKS:
        one = results.get(str(Case(network=network)))
        if one is None:
            continue
        found += [
            f"**{network}**: {one['answer']}",
            "",
            "| setting | found first, at most | rounds judged | accuracy | MB | target |",
        ]
        found += ["|---|---|---|---|---|---|"]
        for setting in one["assessments"]:
            judged = [part for part in setting["leakage"] if part["verdict"] != "not judged"]
            bounds = [part["bound"] for part in judged if part["bound"] is not None]
            phases = f"{len(judged)} of {len(setting['leakage'])}" if setting["leakage"] else "–"
            most, size = f"{max(bounds):.1%}" if bounds else "–", setting["wire_bytes"] / 1e6
            cells = (f"`{setting['obfuscation']}`", most, phases, f"{setting['accuracy']:.1%}", f"{size:.3g}")
            found.append(f"| {' | '.join(cells)} | {setting['verdict']} |")
        found.append("")
    return "\n".join(found or ["The study was not run whole yet.", ""])


BENCHMARK = Benchmark(
    name="advice",
    title="whether the setting that an advice names holds its target on other pictures, batches and seeds",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=200,
    blocks=(
        Block(page=DOCS / "advice.md", marker="advice-answers", table=answers),
        Block(page=DOCS / "advice.md", marker="advice-reaudits", table=table),
    ),
)
