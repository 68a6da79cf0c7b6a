"""What several rounds of one client add, with error feedback and without, where one percent of the entries is sent.

LeNet, four pictures of CIFAR-10 of 32 px in each of three batches, one local step in each round; between two rounds the
server subtracts what the client sent. The attack `unveil` has all updates and knows the weights before each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.reading import read, tensor
from unveil import attacks
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedAvg
from unveil.core.pixels import eight_bit
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse
from unveil.report.statistics import bootstrap_mean

SHAPE, CLASSES, PICTURES, BATCHES, SPEC = (3, 32, 32), 10, 4, 3, "topk:density=0.01"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One batch.

    Args:
        rounds: Number of rounds.
        feedback: Whether there is error feedback.
        batch: Number of the batch, from 0.
    """

    rounds: int
    feedback: bool
    batch: int

    def __str__(self) -> str:
        return f"{self.rounds} rounds; {'error feedback' if self.feedback else 'no memory'}; batch {self.batch}"


KINDS = ((1, False), (3, False), (3, True))
CASES = tuple(Case(rounds=r, feedback=f, batch=b) for r, f in KINDS for b in range(BATCHES))


def run(case: Case, places: Places) -> Result:
    """PSNR of each picture in dB, and the number of entries that were sent in any round."""
    pictures, labels, _, _ = read(places.data, "cifar10_test4k.npz")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
    own = order[PICTURES * case.batch : PICTURES * (case.batch + 1)]
    client = Client(
        build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=case.batch),
        tensor([pictures[at] for at in own], SHAPE[1]),
        torch.tensor([int(labels[at]) for at in own]),
        training=FedAvg(steps=1, lr=0.01),
        rounds=case.rounds,
        error_feedback=case.feedback,
    )
    outcome = play(client, parse(SPEC), attacks.parse("unveil:steps=50"), seed=case.batch)
    found = psnr(client.images, eight_bit(align(client.images, outcome.attack).images)).tolist()
    sent = sum(outcome.received.count_sent(name) for name in outcome.received.tensors)
    return {"psnr": [round(value, 2) for value in found], "sent": sent}


def table(results: Results) -> str:
    """A line for each number of rounds."""
    lines = ["| rounds | error feedback | entries sent | PSNR dB | more than one round, dB |", "|---|---|---|---|---|"]
    once = _pictures(results, KINDS[0])
    for kind in KINDS:
        found = _pictures(results, kind)
        if not found:
            continue
        gain = bootstrap_mean([b - a for a, b in zip(once, found, strict=True)])
        sent = fmean(one["sent"] for one in _made(results, kind))
        more = "" if kind == KINDS[0] else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
        lines.append(f"| {kind[0]} | {'yes' if kind[1] else 'no'} | {sent:,.0f} | {fmean(found):.1f} | {more} |")
    return "\n".join(lines) + "\n"


def _made(results: Results, kind: tuple[int, bool]) -> list[Result]:
    keys = [str(Case(rounds=kind[0], feedback=kind[1], batch=batch)) for batch in range(BATCHES)]
    return [results[key] for key in keys if key in results]


def _pictures(results: Results, kind: tuple[int, bool]) -> Sequence[float]:
    return [value for one in _made(results, kind) for value in one["psnr"]]


BENCHMARK = Benchmark(
    name="rounds",
    title="what several rounds of one client add, with error feedback and without",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=2,
    blocks=(Block(page=DOCS / "method.md", marker="rounds", table=table),),
)
