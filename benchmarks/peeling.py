"""Networks that pool their last map, peeled: ResNets and EfficientNet-Lite0 on ImageNet pictures, one on CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.imagenet import CLASSES, PICTURES, by_line, imagenet_client, means
from benchmarks.measuring import measured
from benchmarks.reading import read, tensor
from benchmarks.victims import Lite0, enlarged, torchvision_resnet18, torchvision_resnet50, trained_resnet18
from unveil.clients import training as trainings
from unveil.clients.client import Client

SEEDS = (0, 1, 2)
UNVEIL, OTHER = "unveil", "inverting_gradients:steps=400"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run on one batch of pictures with different labels: ImageNet's, or CIFAR-10's behind `TRAINED`.

    Args:
        network: One of `NETWORKS`.
        size: Side of the pictures in pixels.
        batch: Pictures in the batch.
        attack: The attack.
        obfuscation: What is done to the update.
        training: The client's local training.
        seed: Of the audit; it chooses the batch too.
        one_class: Whether all pictures of the batch get the label of the first.
    """

    network: str = "ResNet-18"
    size: int
    batch: int
    attack: str = UNVEIL
    obfuscation: str = "none"
    training: str = "fedsgd"
    seed: int = 0
    one_class: bool = False

    def __str__(self) -> str:
        *parts, one_class = astuple(self)
        return "; ".join([*map(str, parts), *(["one class"] if one_class else [])])


TRAINED, FEDAVG = "ResNet-18 trained", "fedavg:steps=5,lr=0.003"
NETWORKS: dict[str, Callable[[Path], nn.Module]] = {
    "ResNet-18": lambda data: torchvision_resnet18(CLASSES),
    "ResNet-50": lambda data: torchvision_resnet50(CLASSES),
    "EfficientNet-Lite0": lambda data: Lite0(),
    TRAINED: trained_resnet18,
}
NAMES = {
    "ResNet-18": "torchvision ResNet-18, random weights",
    "ResNet-50": "torchvision ResNet-50, random weights",
    "EfficientNet-Lite0": "EfficientNet-Lite0, pretrained",
    TRAINED: "torchvision ResNet-18, trained on CIFAR-10",
}
CASES: Sequence[Case] = (
    *(
        Case(size=size, batch=batch, seed=seed)
        for size, batch in ((128, 4), (128, 1), (64, 4), (64, 16))
        for seed in SEEDS
    ),
    *(
        Case(size=size, batch=4, obfuscation=obfuscation, seed=seed)
        for size in (64, 128)
        for obfuscation in ("fp16", "gaussian:relative=0.1", "qsgd:levels=16,norm=max")
        for seed in SEEDS
    ),
    Case(size=64, batch=4, one_class=True),
    *(Case(size=64, batch=4, training=FEDAVG, seed=seed) for seed in SEEDS),
    *(Case(network=TRAINED, size=64, batch=4, seed=seed) for seed in SEEDS),
    *(Case(network="EfficientNet-Lite0", size=128, batch=batch, seed=seed) for batch in (1, 4) for seed in SEEDS),
    *(Case(network="ResNet-50", size=224, batch=1, seed=seed) for seed in SEEDS),
    *(Case(size=size, batch=batch, attack=OTHER) for size, batch in ((128, 4), (128, 1), (64, 4), (64, 16))),
    *(
        Case(size=64, batch=4, attack=OTHER, obfuscation=obfuscation)
        for obfuscation in ("fp16", "gaussian:relative=0.1", "qsgd:levels=16,norm=max")
    ),
    Case(size=64, batch=4, attack=OTHER, training=FEDAVG),
    Case(network=TRAINED, size=64, batch=4, attack=OTHER),
    *(Case(network="EfficientNet-Lite0", size=128, batch=batch, attack=OTHER) for batch in (1, 4)),
    Case(network="ResNet-50", size=224, batch=1, attack=OTHER),
)


def run(case: Case, places: Places) -> Result:
    """One run of one attack."""
    model = NETWORKS[case.network](places.data)
    if case.network == TRAINED:
        client = _cifar_client(case, model, places.data)
    else:
        # Sorted by class, the pictures of a batch lie far apart, and each seed has its own.
        stride = PICTURES // case.batch
        client = imagenet_client(
            places,
            [(case.seed + stride * number) % PICTURES for number in range(case.batch)],
            size=case.size,
            name=NAMES[case.network],
            model_name=case.network,
            model=model,
            training=case.training,
        )
    if case.one_class:
        client = replace(client, labels=client.labels[:1].repeat(case.batch))
    return measured(client, attack=case.attack, obfuscation=case.obfuscation, seed=case.seed)[0]


def _cifar_client(case: Case, model: nn.Module, data: Path) -> Client:
    """Return a client with test pictures of CIFAR-10, enlarged, each of another class."""
    pictures, labels, names, _ = read(data, "cifar10_test4k.npz")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(case.seed)).tolist()
    first: dict[int, int] = {}
    for row in order:
        first.setdefault(int(labels[row]), row)
    rows = list(first.values())[: case.batch]
    return Client(
        model,
        enlarged(tensor([pictures[row] for row in rows], 32), case.size),
        torch.from_numpy(labels[rows]),
        training=trainings.parse(case.training),
        classes=len(names),
        name=NAMES[case.network],
        model_name=case.network,
        source="cifar",
    )


def line(case: Case) -> tuple[str, ...]:
    """What stands in the line of a case, without figures."""
    pictures = f"{case.batch} x {case.size} px" + (", one class" if case.one_class else "")
    local = "" if case.training == "fedsgd" else f"`{case.training}`, then "
    return NAMES[case.network], f"{local}`{case.obfuscation}`", pictures, case.attack


def table(results: Results) -> str:
    """A line for each network, update, batch and attack, over the seeds."""
    rows = [
        "| network | update sent | pictures | attack | batches | PSNR dB | worst | blind guess | SSIM | s / batch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (network, sent, pictures, attack), found in by_line(CASES, results, line).items():
        mean = means(found)
        rows.append(
            f"| {network} | {sent} | {pictures} | `{attack}` | {len(found)} | {mean['psnr']:.1f} "
            f"| {min(run['psnr'] for run in found):.1f} | {mean['psnr_blind']:.1f} | {mean['ssim']:.3f} "
            f"| {mean['seconds']:.0f} |"
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
