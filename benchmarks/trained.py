"""Batches behind a trained head: LeNet trained on CIFAR-10, with and without the separation by closed gates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import scores_of
from benchmarks.published import QSGD16
from benchmarks.reading import read, tensor
from benchmarks.victims import trained_lenet
from unveil import attacks, obfuscations
from unveil.attacks import ClosedGatesTuning
from unveil.attacks.separation.attack import FeatureInversion
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.core.protocols import Attack

BATCH = 16
PARTS = (6, 7, 8)  # batches of 16 test pictures in the order of `beyond`; constants were chosen on those before
SEEDS = (0, 1, 2)
TURNS = "unveil, alternations alone"
PEER = "inverting_gradients:steps=1000"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run on 16 test pictures of CIFAR-10, classes repeated.

    Args:
        attack: SPEC of the attack, or `TURNS` for our own without its separation by closed gates.
        obfuscation: What is done to the update.
        part: Which pictures.
        seed: Of the trial.
    """

    attack: str
    obfuscation: str
    part: int
    seed: int

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


CASES: Sequence[Case] = tuple(
    Case(attack=attack, obfuscation=sent, part=part, seed=seed)
    for attack in ("unveil", TURNS, PEER)
    for sent in ("none", QSGD16)
    for number, part in enumerate(PARTS)
    for seed in (SEEDS if attack == "unveil" else (number,))
)


def attack_of(case: Case) -> Attack:
    """The attack of a case."""
    if case.attack == TURNS:
        return FeatureInversion(closed_gates=ClosedGatesTuning(explained=1.0))
    return attacks.parse(case.attack)


@lru_cache(maxsize=1)
def client_of(part: int, data: Path) -> Client:
    """The client of a part, as a shuffled client of CIFAR-10 has its pictures."""
    pictures, labels, names, _ = read(data, "cifar10_test4k.npz")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    rows = order[part * BATCH : (part + 1) * BATCH]
    return Client(
        trained_lenet(data),
        tensor([pictures[row] for row in rows.tolist()], 32),
        torch.from_numpy(labels)[rows],
        classes=len(names),
        name=f"part {part}",
        model_name="trained lenet",
        source="cifar",
    )


def run(case: Case, places: Places) -> Result:
    """PSNR of one run, its wall time and its processor time, in seconds."""
    client = client_of(case.part, places.data)
    started = time.process_time()
    outcome = play(client, obfuscations.parse(case.obfuscation), attack_of(case), seed=case.seed)
    used = time.process_time() - started
    return {
        **scores_of(client, outcome.attack, {}),
        "seconds": round(outcome.seconds, 2),
        "processor_seconds": round(used, 2),
        "notes": list(outcome.attack.notes),
        "batch": len(client.images),
        "threads": torch.get_num_threads(),
    }


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    return places.no_pictures


def table(results: Results) -> str:
    """The Markdown table, a line for each attack and obfuscation; seconds are the processor's."""
    lines = [
        "| attack | update sent | batches x seeds | PSNR dB | each batch | worst image | blind guess | s / run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for attack, sent in dict.fromkeys((case.attack, case.obfuscation) for case in CASES):
        cases = [c for c in CASES if (c.attack, c.obfuscation) == (attack, sent) and str(c) in results]
        if not cases:
            continue
        found: list[dict[str, Any]] = [results[str(case)] for case in cases]
        parts = [
            statistics.mean(results[str(case)]["psnr"] for case in cases if case.part == part)
            for part in dict.fromkeys(case.part for case in cases)
        ]
        name = attack if attack == TURNS else f"`{attack}`"
        lines.append(
            f"| {name} | `{sent}` | {len(parts)} x {len(cases) // len(parts)} "
            f"| {statistics.mean(run['psnr'] for run in found):.2f} | {', '.join(f'{part:.1f}' for part in parts)} "
            f"| {min(run['psnr_min'] for run in found):.1f} "
            f"| {statistics.mean(run['psnr_blind'] for run in found):.1f} "
            f"| {statistics.mean(run['processor_seconds'] for run in found):.0f} |"
        )
    return "\n".join(lines) + "\n"


BENCHMARK = Benchmark(
    name="trained",
    title="batches behind a LeNet trained on CIFAR-10",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=20,
    blocks=(Block(page=DOCS / "method.md", marker="trained", table=table),),
)
