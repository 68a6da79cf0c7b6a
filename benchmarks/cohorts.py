"""What comes back from the mean of the updates of more and more clients, each with pictures of its own.

LeNet with four pictures of CIFAR-10 a client, and torchvision's ResNet-18 with random weights in eval mode and one
picture of ImageNet a client. The clients compute one gradient each, nothing obfuscates the mean, and the
attack knows everything. A larger cohort of a batch has the pictures of the smaller ones and further ones, so that those
of the first client stand in every cohort.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.imagenet import CLASSES as IMAGENET
from benchmarks.imagenet import FILE
from benchmarks.reading import read, tensor
from benchmarks.victims import torchvision_resnet18
from unveil import attacks
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.cohort import of_cohort
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.pixels import GREY, eight_bit
from unveil.core.types import Images
from unveil.metrics.alignment import align
from unveil.metrics.identity import pixels, reidentification
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse
from unveil.report.statistics import Interval, bootstrap_mean, wilson

BATCHES, DECOYS = 3, 200
CLIENTS = (1, 2, 4, 8, 16)
EACH = {"LeNet": 4, "ResNet-18": 1}
"""Network -> pictures of a client."""
SIZE = {"LeNet": 32, "ResNet-18": 64}
"""Network -> side of its pictures in pixels; the last map of ResNet-18 has one place at 32, four at 64."""
ATTACK = {"LeNet": "unveil", "ResNet-18": "unveil:steps=20"}
"""Network -> the attack; a peeled network takes five times as many steps."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cohort.

    Args:
        network: A key of `EACH`.
        clients: Number of clients.
        batch: Number of the batch, from 0: it has pictures and a seed of its own, and LeNet weights of its own.
    """

    network: str
    clients: int
    batch: int

    def __str__(self) -> str:
        return f"{self.network}; {self.clients} clients; batch {self.batch}"


CASES = tuple(Case(network=n, clients=k, batch=b) for n in EACH for k in CLIENTS for b in range(BATCHES))


def client_of(case: Case, places: Places) -> tuple[Client, Images]:
    """The cohort of a case, and other pictures of its source."""
    is_lenet = case.network == "LeNet"
    pictures, labels, _, _ = read(places.data, "cifar10_test4k.npz" if is_lenet else FILE)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
    size, most = SIZE[case.network], EACH[case.network] * max(CLIENTS)
    own = order[most * case.batch :][: EACH[case.network] * case.clients]
    others = order[most * BATCHES :][:DECOYS]
    client = Client(
        build_model("lenet", image_shape=(3, size, size), classes=10, seed=case.batch)
        if is_lenet
        else torchvision_resnet18(IMAGENET),
        tensor([pictures[at] for at in own], size),
        torch.tensor([int(labels[at]) for at in own]),
        training=of_cohort(FedSGD(), case.clients),
        cohort=case.clients,
    )
    return client, tensor([pictures[at] for at in others], size)


def run(case: Case, places: Places) -> Result:
    """Scores of each picture in batch order, seconds of the processor, and what the attack says of the batch."""
    client, others = client_of(case, places)
    started = time.process_time()
    outcome = play(client, parse("none"), attacks.parse(ATTACK[case.network]), seed=case.batch)
    seconds = time.process_time() - started
    found = eight_bit(align(client.images, outcome.attack).images)
    first = reidentification(others, pixels)["reid_top1"].score(client.images, found)
    grey = psnr(client.images, torch.full_like(client.images, GREY))
    return {
        "psnr": [round(value, 2) for value in psnr(client.images, found).tolist()],
        "grey": [round(value, 2) for value in grey.tolist()],
        "first": [int(value) for value in first.tolist()],
        "seconds": round(seconds, 1),
        "notes": list(outcome.attack.notes),
    }


@dataclass(frozen=True, kw_only=True)
class Line:
    """What came back from the cohorts of one size.

    Args:
        clients: Number of clients.
        batches: Number of batches that were run.
        pictures: Number of pictures of all clients of one cohort.
        psnr: Over the pictures of all clients and batches, in dB.
        grey: The same of a grey picture made without any update.
        of_first: Over the pictures of the first client, which stand in every cohort, in dB.
        found: Share found first among `DECOYS` other pictures.
        seconds: Seconds of one attack.
    """

    clients: int
    batches: int
    pictures: int
    psnr: Interval
    grey: float
    of_first: Interval
    found: Interval
    seconds: float


def lines(results: Results, network: str) -> list[Line]:
    """The cohorts of one network, by size."""
    made = []
    for clients in CLIENTS:
        keys = [str(Case(network=network, clients=clients, batch=batch)) for batch in range(BATCHES)]
        each = [results[key] for key in keys if key in results]
        if not each:
            continue
        first = [value for one in each for value in one["first"]]
        made.append(
            Line(
                clients=clients,
                batches=len(each),
                pictures=EACH[network] * clients,
                psnr=bootstrap_mean(_values(each, "psnr")),
                grey=fmean(_values(each, "grey")),
                of_first=bootstrap_mean([v for one in each for v in one["psnr"][: EACH[network]]]),
                found=wilson(sum(first), len(first)),
                seconds=fmean(one["seconds"] for one in each),
            )
        )
    return made


def table(results: Results) -> str:
    """A line for each network and number of clients."""
    rows = [
        "| network | clients | pictures | batches | PSNR dB | first client's pictures, dB | blind guess | found first "
        "| s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {network} | {line.clients} | {line.pictures} | {line.batches} | {_decibels(line.psnr)} "
        f"| {_decibels(line.of_first)} | {line.grey:.1f} "
        f"| {line.found.mean:.0%} [{line.found.low:.0%}, {line.found.high:.0%}] "
        f"| {line.seconds:.0f} |"
        for network in EACH
        for line in lines(results, network)
    ]
    return "\n".join(rows) + "\n"


def _values(each: Sequence[Result], name: str) -> list[float]:
    return [value for one in each for value in one[name]]


def _decibels(value: Interval) -> str:
    return f"{value.mean:.1f} [{value.low:.1f}, {value.high:.1f}]" if value.is_known else f"{value.mean:.1f}"


BENCHMARK = Benchmark(
    name="cohorts",
    title="what comes back from the mean over 1 to 16 clients",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=15,
    blocks=(Block(page=DOCS / "method.md", marker="cohorts", table=table),),
)
