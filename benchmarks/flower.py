"""What comes back from the updates that the clients of examples/flower_quickstart send, by an audit of recorded ones.

Each case is the federation of the example: eight clients, two rounds, one batch of eight pictures in each. The clients'
own code is called in this process by `drive`, whose update is that of Flower's simulation bit for bit, and the server
averages as FedAvg does. Run it where Flower is installed: `.venv-integrations/bin/python -m benchmarks run flower`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import README, ROOT, Benchmark, Block, Places, Result, Results
from benchmarks.reading import read, tensor
from unveil import attacks
from unveil.audits.controls import LABELS
from unveil.audits.recorded.making import recorded_client
from unveil.audits.recorded.trial import run_recorded_trial
from unveil.captures.flower import drive
from unveil.captures.reading import read_recording
from unveil.core.records import ATTACK
from unveil.metrics import CATALOGUE
from unveil.metrics.identity import pixels, reidentification
from unveil.report.statistics import wilson

EXAMPLE = ROOT / "examples" / "flower_quickstart"
CLIENTS, ROUNDS, DECOYS = 8, 2, 200
SPECS = ("none", "fp16", "topk:density=0.05")
SOURCES = {"tiles": "the example's own, tiles of photographs", "cifar": "CIFAR-10"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One federation.

    Args:
        source: Where the pictures come from, one of `SOURCES`.
        spec: What clients do to their updates.
    """

    source: str
    spec: str

    def __str__(self) -> str:
        return f"{self.source}; {self.spec}"


CASES = tuple(Case(source=source, spec=spec) for source in SOURCES for spec in SPECS)


def run(case: Case, places: Places) -> Result:
    """Scores of each picture of each recorded update, and of the control, in the order of rounds and clients."""
    sys.path.insert(0, str(EXAMPLE))
    app, task = importlib.import_module("app"), importlib.import_module("task")
    images, labels = task.tiles() if case.source == "tiles" else _cifar(places.data)
    metrics = {"psnr": CATALOGUE["psnr"], **reidentification(images[-DECOYS:], pixels)}
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        clients = app.client_app(Path(folder, "mods"), case.spec, (images, labels))
        for path in federated(clients, task, Path(folder, "driven")):
            client = recorded_client(read_recording(path), "task:Net", truth=path.with_suffix(""))
            outcome = run_recorded_trial(client, attacks.parse("unveil"), metrics=metrics).outcomes[ATTACK]
            for name in metrics:
                found.setdefault(name, []).extend(outcome.scores[name])
                found.setdefault(f"control {name}", []).extend(outcome.controls[LABELS][name])
    return {name: [round(value, 3) for value in values] for name, values in found.items()}


def federated(app: Any, task: Any, folder: Path) -> list[Path]:
    """Run the clients for all rounds, the server's mean between; returns what they sent, recorded as it left them."""
    torch.manual_seed(0)
    weights: Mapping[str, torch.Tensor] = task.Net().state_dict()
    normalisation = {"mean": [task.MEAN] * 3, "std": [task.STD] * 3}
    paths = []
    for number in range(1, ROUNDS + 1):
        for partition in range(CLIENTS):
            run = {"partition": partition, "partitions": CLIENTS, "round": number, "normalisation": normalisation}
            paths.append(drive(app, weights, folder, config={"lr": 0.01}, **run))
        sent = [read_recording(path).client for path in paths[-CLIENTS:]]
        weights = {name: torch.stack([client[name] for client in sent]).mean(dim=0) for name in weights}
    return paths


def _cifar(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels, _, _ = read(data, "cifar10_test4k.npz")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[: CLIENTS * ROUNDS * 8 + DECOYS]
    return tensor([pictures[row] for row in order], 32), torch.from_numpy(labels)[order].long()


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    if importlib.util.find_spec("flwr") is None:
        return "Flower is not installed; make test-integrations, then .venv-integrations/bin/python -m benchmarks"
    return "" if case.source == "tiles" else places.no_pictures


def table(results: Results) -> str:
    """A line for each federation."""
    lines = [
        "| pictures | clients send | found first among 200 decoys | control | PSNR dB | control |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        if str(case) not in results:
            continue
        kept = results[str(case)]
        shares = [_share(kept[f"{who}reid_top1"]) for who in ("", "control ")]
        decibels = [f"{sum(kept[name]) / len(kept[name]):.1f}" for name in ("psnr", "control psnr")]
        what = "weights as they are" if case.spec == "none" else f"`{case.spec}`"
        lines.append(f"| {SOURCES[case.source]} | {what} | {' | '.join(shares)} | {' | '.join(decibels)} |")
    return "\n".join(lines) + "\n"


def _share(found: list[float]) -> str:
    rate = wilson(sum(found), len(found))
    return f"{rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


BENCHMARK = Benchmark(
    name="flower",
    title="what comes back from the recorded updates of examples/flower_quickstart",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    blocks=(Block(page=README, marker="flower", table=table),),
    minutes=20,
)
