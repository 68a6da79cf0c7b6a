"""Pooled networks whose BatchNorm runs in train mode, with and without the running statistics in the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.imagenet import CLASSES, by_line, imagenet_client, means
from benchmarks.measuring import measured
from benchmarks.victims import torchvision_resnet18

SEEDS = (0, 1, 2)
SENT, KEPT = "fedsgd:mode=train,buffers=sent", "fedsgd:mode=train"
UNVEIL, OTHER = "unveil", "inverting_gradients:steps=400"


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


CASES: Sequence[Case] = (
    *(
        Case(batch=batch, size=size, training=local, seed=seed)
        for seed in SEEDS
        for batch, size, local in ((4, 64, SENT), (8, 64, SENT), (4, 128, SENT), (4, 64, KEPT))
    ),
    *(Case(batch=4, size=64, attack=OTHER, training=local) for local in (SENT, KEPT)),
)


def run(case: Case, places: Places) -> Result:
    """One run of one attack on torchvision's ResNet-18 with random weights."""
    client = imagenet_client(
        places,
        range(case.seed * case.batch, (case.seed + 1) * case.batch),
        size=case.size,
        name="ResNet-18",
        model_name="torchvision ResNet-18",
        model=torchvision_resnet18(CLASSES),
        training=case.training,
    )
    return measured(client, attack=case.attack, obfuscation="none", seed=case.seed)[0]


def table(results: Results) -> str:
    """A line for each size of the batch, local training and attack, over the seeds."""
    rows = [
        "| pictures | local training | attack | batches | PSNR dB | worst | blind guess | SSIM | s / picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    grouped = by_line(CASES, results, lambda case: (f"{case.batch} of {case.size} px", case.training, case.attack))
    for (pictures, local, attack), found in grouped.items():
        mean = means(found)
        count, worst = int(pictures.split()[0]), min(run["psnr_min"] for run in found)
        rows.append(
            f"| {pictures} | `{local}` | `{attack}` | {len(found)} | {mean['psnr']:.1f} | {worst:.1f} "
            f"| {mean['psnr_blind']:.1f} | {mean['ssim']:.3f} | {mean['seconds'] / count:.0f} |"
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
