"""What several rounds of one client add, with and without error feedback, through top-k of one percent and signs.

LeNet, four pictures of CIFAR-10 of 32 px in each of three batches, one local step in each round; between two rounds the
server subtracts what the client sent. The attack `unveil` has all updates and knows the weights before each. Signs are
sent with each tensor's mean magnitude: without one, a server that subtracts them would move every weight by 1.
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
from unveil.core.pixels import GREY, eight_bit
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse
from unveil.report.statistics import bootstrap_mean

SHAPE, CLASSES, PICTURES, BATCHES = (3, 32, 32), 10, 4, 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """One batch.

    Args:
        sent: The obfuscation of each update.
        rounds: Number of rounds.
        feedback: Whether there is error feedback.
        batch: Number of the batch, from 0.
    """

    sent: str
    rounds: int
    feedback: bool
    batch: int

    def __str__(self) -> str:
        memory = "error feedback" if self.feedback else "no memory"
        return f"{self.sent}; {self.rounds} rounds; {memory}; batch {self.batch}"


SENT = ("topk:density=0.01", "sign:scale=true")
KINDS = ((1, False), (3, False), (3, True))
CASES = tuple(Case(sent=s, rounds=r, feedback=f, batch=b) for s in SENT for r, f in KINDS for b in range(BATCHES))


def run(case: Case, places: Places) -> Result:
    """PSNR of each picture in dB, that of a grey one, and the number of entries that were sent in any round."""
    client = client_of(case, places)
    outcome = play(client, parse(case.sent), attacks.parse("unveil:steps=50"), seed=case.batch)
    found = psnr(client.images, eight_bit(align(client.images, outcome.attack).images)).tolist()
    grey = psnr(client.images, torch.full_like(client.images, GREY)).tolist()
    sent = sum(outcome.received.count_sent(name) for name in outcome.received.tensors)
    return {"psnr": [round(value, 2) for value in found], "grey": [round(value, 2) for value in grey], "sent": sent}


def client_of(case: Case, places: Places) -> Client:
    """The client of a case."""
    pictures, labels, _, _ = read(places.data, "cifar10_test4k.npz")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
    own = order[PICTURES * case.batch : PICTURES * (case.batch + 1)]
    return Client(
        build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=case.batch),
        tensor([pictures[at] for at in own], SHAPE[1]),
        torch.tensor([int(labels[at]) for at in own]),
        training=FedAvg(steps=1, lr=0.01),
        rounds=case.rounds,
        error_feedback=case.feedback,
    )


def table(results: Results) -> str:
    """A line for each obfuscation and number of rounds."""
    rows = [
        "| update sent | rounds | error feedback | entries sent | PSNR dB | blind guess | more than one round, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for sent in SENT:
        once = _values(_made(results, sent, KINDS[0]), "psnr")
        for kind in KINDS:
            made = _made(results, sent, kind)
            if len(made) < BATCHES or not once:
                continue
            found, grey = _values(made, "psnr"), _values(made, "grey")
            gain = bootstrap_mean([b - a for a, b in zip(once, found, strict=True)])
            more = "" if kind == KINDS[0] else f"{gain.mean:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
            entries, memory = fmean(one["sent"] for one in made), "yes" if kind[1] else "no"
            scores = f"{fmean(found):.1f} | {fmean(grey):.1f}"
            rows.append(f"| `{sent}` | {kind[0]} | {memory} | {entries:,.0f} | {scores} | {more} |")
    return "\n".join(rows) + "\n"


def _made(results: Results, sent: str, kind: tuple[int, bool]) -> list[Result]:
    keys = [str(Case(sent=sent, rounds=kind[0], feedback=kind[1], batch=batch)) for batch in range(BATCHES)]
    return [results[key] for key in keys if key in results]


def _values(made: Sequence[Result], name: str) -> list[float]:
    return [value for one in made for value in one[name]]


BENCHMARK = Benchmark(
    name="rounds",
    title="what several rounds of one client add, with error feedback and without",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=5,
    blocks=(Block(page=DOCS / "method.md", marker="rounds", table=table),),
)
