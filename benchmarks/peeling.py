"""Networks that pool their last map, peeled: torchvision's ResNet-18 and its like on ImageNet pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured
from benchmarks.reading import read, tensor
from benchmarks.victims import torchvision_resnet18
from unveil.clients import training
from unveil.clients.client import Client

SEEDS = (0, 1, 2)
CLASSES = 1000
UNVEIL, OTHER = "unveil", "inverting_gradients:steps=400"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run on one batch of ImageNet pictures with different labels.

    Args:
        network: One of `NETWORKS`.
        size: Side of the pictures in pixels.
        batch: Pictures in the batch.
        attack: The attack.
        obfuscation: What is done to the update.
        training: The client's local training.
        seed: Of the audit; it chooses the batch too.
    """

    network: str = "ResNet-18"
    size: int
    batch: int
    attack: str = UNVEIL
    obfuscation: str = "none"
    training: str = "fedsgd"
    seed: int = 0

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


NETWORKS = {"ResNet-18": lambda: torchvision_resnet18(CLASSES)}
NAMES = {"ResNet-18": "torchvision ResNet-18, random weights"}
CASES: Sequence[Case] = (
    *(
        Case(size=size, batch=batch, seed=seed)
        for size, batch in ((128, 4), (128, 1), (64, 4), (64, 16))
        for seed in SEEDS
    ),
    *(Case(size=size, batch=batch, attack=OTHER) for size, batch in ((128, 4), (128, 1), (64, 4), (64, 16))),
)


def batch_of(places: Places, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures with different labels and the labels; each seed has a batch of its own."""
    pictures, labels, _, _ = read(places.data, "imagenet700_256.npz")
    # One picture of each class, sorted by class: those of a batch lie far apart, and each seed has its own.
    stride = len(pictures) // case.batch
    chosen = [(case.seed + stride * number) % len(pictures) for number in range(case.batch)]
    return tensor([pictures[index] for index in chosen], case.size), torch.from_numpy(labels[chosen])


def run(case: Case, places: Places) -> Result:
    """One run of one attack."""
    images, labels = batch_of(places, case)
    client = Client(
        name=NAMES[case.network],
        model_name=case.network,
        model=NETWORKS[case.network](),
        images=images,
        labels=labels,
        classes=CLASSES,
        training=training.parse(case.training),
        source="imagenet",
    )
    return measured(client, attack=case.attack, obfuscation=case.obfuscation, seed=case.seed)[0]


def table(results: Results) -> str:
    """A line for each network, update, batch and attack, over the seeds."""
    rows = [
        "| network | update sent | pictures | attack | batches | PSNR dB | worst | blind guess | SSIM | s / batch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, ...], list[Result]] = {}
    for case in CASES:
        if str(case) in results:
            local = "" if case.training == "fedsgd" else f"`{case.training}`, then "
            line = (NAMES[case.network], f"{local}`{case.obfuscation}`", f"{case.batch} x {case.size} px", case.attack)
            grouped.setdefault(line, []).append(results[str(case)])
    for (network, sent, pictures, attack), found in grouped.items():
        means = {key: statistics.mean(run[key] for run in found) for key in ("psnr", "psnr_blind", "ssim", "seconds")}
        rows.append(
            f"| {network} | {sent} | {pictures} | `{attack}` | {len(found)} | {means['psnr']:.1f} "
            f"| {min(run['psnr'] for run in found):.1f} | {means['psnr_blind']:.1f} | {means['ssim']:.3f} "
            f"| {means['seconds']:.0f} |"
        )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="peeling",
    title="networks that pool their last map, peeled to exact maps",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    apart=True,
    minutes=40,
    blocks=(Block(page=DOCS / "method.md", marker="peeling", table=table),),
)
