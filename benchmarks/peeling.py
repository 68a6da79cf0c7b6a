"""Networks that pool their last map, peeled: ResNets and EfficientNet-Lite0 on ImageNet pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.imagenet import CLASSES, PICTURES, by_line, imagenet_client, means
from benchmarks.measuring import measured
from benchmarks.victims import Lite0, torchvision_resnet18, torchvision_resnet50

SEEDS = (0, 1, 2)
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


NETWORKS = {
    "ResNet-18": lambda: torchvision_resnet18(CLASSES),
    "ResNet-50": lambda: torchvision_resnet50(CLASSES),
    "EfficientNet-Lite0": Lite0,
}
NAMES = {
    "ResNet-18": "torchvision ResNet-18, random weights",
    "ResNet-50": "torchvision ResNet-50, random weights",
    "EfficientNet-Lite0": "EfficientNet-Lite0, pretrained",
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
    *(Case(network="EfficientNet-Lite0", size=128, batch=batch, seed=seed) for batch in (1, 4) for seed in SEEDS),
    *(Case(network="ResNet-50", size=224, batch=1, seed=seed) for seed in SEEDS),
    *(Case(size=size, batch=batch, attack=OTHER) for size, batch in ((128, 4), (128, 1), (64, 4), (64, 16))),
)


def run(case: Case, places: Places) -> Result:
    """One run of one attack."""
    # Sorted by class, the pictures of a batch lie far apart, and each seed has its own.
    stride = PICTURES // case.batch
    client = imagenet_client(
        places,
        [(case.seed + stride * number) % PICTURES for number in range(case.batch)],
        size=case.size,
        name=NAMES[case.network],
        model_name=case.network,
        model=NETWORKS[case.network](),
        training=case.training,
    )
    if case.one_class:
        client = replace(client, labels=client.labels[:1].repeat(case.batch))
    return measured(client, attack=case.attack, obfuscation=case.obfuscation, seed=case.seed)[0]


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
