"""What Flower's simulation engine costs or saves beside the plain loop when a federation is trained."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from benchmarks.frame import DOCS, ROOT, Benchmark, Block, Case, Places, Result, Results
from unveil.advice.federation import Federation
from unveil.advice.flower.trainer import lacking
from unveil.advice.round import Rounds, in_turn
from unveil.advice.trainers import trainer_named
from unveil.advice.training import train
from unveil.cli.advice_config import load_question
from unveil.obfuscations import parse

FILE = ROOT / "src" / "unveil" / "cli" / "advice.toml"  # what `unveil init --advise` writes
FEDERATIONS: Mapping[str, tuple[str, ...]] = {
    "small": (),
    "large": (
        "federation.model=resnet18",
        "federation.size=32",
        "federation.batch=8",
        "federation.training=fedavg:steps=5,lr=0.01",
    ),
}
"""Name -> what is set beside the file."""

WORDS = {
    "small": "LeNet, 8 clients, one step on 4 pictures of 16 px",
    "large": "ResNet-18, 8 clients, five steps on 8 pictures of 32 px",
}
REPEATS = {"small": 15, "large": 3}


def measured(case: Case, places: Places) -> Result:
    """Seconds of a round by both, in turns in one process, and of the engine's start and stop."""
    federation = replace(load_question(FILE, FEDERATIONS[case]).federation, rounds=1)
    obfuscation, seed, trainer = parse("none"), federation.seeds[0], trainer_named("flower")
    plain = in_turn(federation, obfuscation, seed)
    begun = time.perf_counter()
    with trainer.ready(federation, obfuscation) as rounds_of:
        flower = rounds_of(seed)
        seconds(federation, flower)  # in which its processes import what they need
        ready = time.perf_counter() - begun
        seconds(federation, plain)
        pairs = [(seconds(federation, plain), seconds(federation, flower)) for _ in range(REPEATS[case])]
        begun = time.perf_counter()
    stopped = time.perf_counter() - begun
    return {
        "versions": trainer.name,
        "threads": torch.get_num_threads(),
        "clients_at_once": trainer.processes(federation),
        "load": round(os.getloadavg()[0], 1),
        "plain": round(statistics.median(one for one, _ in pairs), 3),
        "flower": round(statistics.median(other for _, other in pairs), 3),
        "ratio": round(statistics.median(other / one for one, other in pairs), 2),
        "start_and_stop": round(ready + stopped, 1),
    }


def seconds(federation: Federation, rounds: Rounds) -> float:
    """Seconds of a training of one round, with its test."""
    begun = time.perf_counter()
    train(federation, parse("none"), seed=federation.seeds[0], rounds=rounds)
    return time.perf_counter() - begun


def table(results: Results) -> str:
    """The Markdown table."""
    rows = [
        "| federation | a round, plain loop, s | a round, Flower, s | ratio | start and stop of Flower's engine, s |",
        "|---|---|---|---|---|",
    ]
    for name, one in results.items():
        numbers = (f"{one['plain']:.2f}", f"{one['flower']:.2f}", f"{one['ratio']:.1f}", f"{one['start_and_stop']:.0f}")
        rows.append(f"| {WORDS[name]} | {' | '.join(numbers)} |")
    return "\n".join(rows) + "\n"


def missing(case: Case, places: Places) -> str:
    """Why it cannot be measured here."""
    found = lacking()
    return "" if found is None else f"{found.reason}; {found.fix}"


BENCHMARK = Benchmark(
    name="trainers",
    title="seconds of a round of a federation by Flower's simulation engine, beside the plain loop",
    cases=lambda: list(FEDERATIONS),
    run=measured,
    missing=missing,
    apart=True,
    minutes=3,
    blocks=(Block(page=DOCS / "advice.md", marker="trainers", table=table),),
)
