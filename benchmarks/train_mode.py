"""Pooled networks whose BatchNorm runs in train mode, with and without the running statistics in the update."""

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
SENT, KEPT = "fedsgd:mode=train,buffers=sent", "fedsgd:mode=train"
UNVEIL = "unveil"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run on a batch of ImageNet pictures.

    Args:
        batch: Number of pictures.
        size: Side of the pictures in pixels.
        attack: The attack.
        training: The client's local training.
        seed: Of the audit; it chooses the pictures too, others for each seed.
    """

    batch: int
    size: int
    attack: str = UNVEIL
    training: str = SENT
    seed: int = 0

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


CASES: Sequence[Case] = tuple(
    Case(batch=batch, size=size, training=local, seed=seed)
    for seed in SEEDS
    for batch, size, local in ((4, 64, SENT), (8, 64, SENT), (4, 128, SENT), (4, 64, KEPT))
)


def run(case: Case, places: Places) -> Result:
    """One run of one attack on torchvision's ResNet-18 with random weights."""
    end = (case.seed + 1) * case.batch
    pictures, labels, _, _ = read(places.data, "imagenet700_256.npz", limit=end)
    client = Client(
        name="ResNet-18",
        model_name="torchvision ResNet-18",
        model=torchvision_resnet18(CLASSES),
        images=tensor(pictures[end - case.batch :], case.size),
        labels=torch.from_numpy(labels[end - case.batch :]),
        classes=CLASSES,
        training=training.parse(case.training),
        source="imagenet",
    )
    return measured(client, attack=case.attack, obfuscation="none", seed=case.seed)[0]


def table(results: Results) -> str:
    """A line for each size of the batch and local training, over the seeds."""
    rows = [
        "| pictures | local training | batches | PSNR dB | worst | blind guess | SSIM | s / picture |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str], list[Result]] = {}
    for case in CASES:
        if str(case) in results:
            group = f"{case.batch} of {case.size} px", f"`{case.training}`"
            grouped.setdefault(group, []).append(results[str(case)])
    for (pictures, local), found in grouped.items():
        means = {key: statistics.mean(run[key] for run in found) for key in ("psnr", "psnr_blind", "ssim", "seconds")}
        count, worst = int(pictures.split()[0]), min(run["psnr_min"] for run in found)
        rows.append(
            f"| {pictures} | {local} | {len(found)} | {means['psnr']:.1f} | {worst:.1f} "
            f"| {means['psnr_blind']:.1f} | {means['ssim']:.3f} | {means['seconds'] / count:.0f} |"
        )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="train_mode",
    title="BatchNorm in train mode: torchvision's ResNet-18 with its running statistics sent or kept",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    apart=True,
    minutes=60,
    blocks=(Block(page=DOCS / "method.md", marker="train-mode", table=table),),
)
