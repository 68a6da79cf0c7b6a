"""What a semantic generator adds, and what it merely knows from the label: can the class of a picture still be named?

    python benchmarks/meaning.py [--data DIR] [--batches 10] [--only Caltech] [--fresh]

160 test pictures of Caltech-101 in ten clients of 16, sent through channels after which pixels are gone, rebuilt, and
shown to two judges that none of the enhancers shown was trained with: EfficientNet-Lite0 by the names of its classes
where it has them, and a classifier of Caltech's classes on what EfficientNet-Lite0 sees, trained here on the training
part. A hit is the true class among five. The same for 160 test pictures of CIFAR-10 and a ResNet-20; there a hit is its
first choice. Each client is kept in benchmarks/results/meaning.json as soon as it is done; started again, what is there
is not run again. docs/priors.md gets the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anchor import eight_bit
from priors import BATCH, DEFAULT_DATA, PAGE, QSGD2, TOP1, filled, pictures
from run import RESULTS, write
from unveil import attacks, obfuscations
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.randomness import generators
from unveil.core.types import Batch, Images, Reconstruction, Update
from unveil.enhancers import parse as parse_enhancer
from unveil.enhancers.consistency import enhance, from_labels, refuse_seen
from unveil.fitting.sources import apart_from, read_source
from unveil.metrics.alignment import align
from unveil.metrics.classifiers import Classifier, build_classifier
from unveil.metrics.pixel import psnr
from unveil.metrics.semantic import classes_named
from unveil.report.statistics import bootstrap_mean

KEPT = RESULTS / "meaning.json"
CHANNELS = (TOP1, QSGD2)
SHOWN = ("true", "none", "faithful", "semantic without the label", "semantic", "label alone")
NEITHER = -1  # a label that no enhancer knows
CALTECH, CIFAR = "Caltech test", "CIFAR-10 test"
ENHANCERS = {CALTECH: "semantic", CIFAR: "semantic-cifar10"}
TITLES = {
    CALTECH: {"names": "EfficientNet-Lite0", "trained": "Caltech's classifier"},
    CIFAR: {"names": "ResNet-20"},
}
"""Judges of a source: key in the results -> what it is called."""

Judge = Callable[[Images, Tensor], list[float]]
"""(pictures, labels) -> for each, 1 where its class is among five, else 0; NaN where the judge does not know it."""


def judges_of(source: str, data: Path, names: Sequence[str]) -> dict[str, Judge]:
    """Who says whether a class can be named."""
    if source == CIFAR:
        return {
            "names": by_names(build_classifier(f"cifar10:{data / 'models' / 'resnet20-12fca82f.th'}"), names, top=1)
        }
    lite = build_classifier("efficientnet_lite0")
    return {"names": by_names(lite, names, top=5), "trained": by_training(lite, data, top=5)}


def by_names(classifier: Classifier, names: Sequence[str], *, top: int) -> Judge:
    """A classifier's own classes, where a name is one of them or names several."""
    meant = [set(classes_named(classifier, name)) for name in names]

    def judge(images: Images, labels: Tensor) -> list[float]:
        named = classifier(images).probabilities.topk(top, 1).indices.tolist()
        pairs = zip(labels.tolist(), named, strict=True)
        return [float(bool(meant[label] & set(row))) if meant[label] else math.nan for label, row in pairs]

    return judge


def by_training(classifier: Classifier, data: Path, *, top: int) -> Judge:
    """A linear classifier of Caltech's classes on what EfficientNet-Lite0 sees."""
    path = data / "caltech99_128.npz"
    source = apart_from(read_source(path), [path], leave_out=True)
    rows = range(len(source))
    seen = torch.cat([_seen(classifier, source.images(rows[i : i + 256])) for i in range(0, len(source), 256)])
    labels = torch.from_numpy(source.labels)
    torch.manual_seed(0)
    layer = torch.nn.Linear(seen.shape[1], len(source.class_names))
    adam = torch.optim.Adam(layer.parameters(), lr=0.003, weight_decay=1e-4)
    middle, spread = seen.mean(0), seen.std(0) + 1e-6
    for _ in range(300):
        adam.zero_grad()
        F.cross_entropy(layer((seen - middle) / spread), labels).backward()
        adam.step()

    def judge(images: Images, labels: Tensor) -> list[float]:
        with torch.no_grad():
            named = layer((_seen(classifier, images) - middle) / spread).topk(top, 1).indices
        return (named == labels[:, None]).any(1).float().tolist()

    return judge


def _seen(classifier: Classifier, images: Images) -> Tensor:
    features = classifier(images).features
    assert features is not None
    return features.float()


def clients(source: str, data: Path, batches: int) -> Iterator[Client]:
    """Test pictures in batches, each a client with a LeNet of its own."""
    if source == CIFAR:
        read = read_source(data / "cifar10_test4k.npz")
        order = torch.randperm(len(read), generator=torch.Generator().manual_seed(0))[: BATCH * batches]
        found = Batch(read.images(order.tolist()), torch.from_numpy(read.labels)[order])
        names = read.class_names
    else:
        found, names = pictures(source, data), read_source(data / "caltech99_128.npz", split=1).class_names
    shape = (found.images.shape[1], found.images.shape[2], found.images.shape[3])
    for number in range(batches):
        rows = slice(BATCH * number, BATCH * (number + 1))
        yield Client(
            name=f"{source} {number}",
            model_name="lenet",
            model=build_model("lenet", image_shape=shape, classes=len(names), seed=number),
            images=found.images[rows],
            labels=found.labels[rows],
            classes=len(names),
            training=FedSGD(),
            source=source,
            class_names=names,
        )


def looks(client: Client, channel: str, semantic: str, *, seed: int) -> dict[str, Images]:
    """A client's pictures as they are, as rebuilt, and as enhancers show them, in the client's order."""
    obfuscation = obfuscations.parse(channel)
    client, sending, chance = generators(seed, torch.device("cpu"))
    sent = Update(client.training(client.model, client.batch, generator=client))
    received = obfuscation(sent, generator=sending)
    knowledge = ThreatModel().knowledge(client, obfuscation)
    guess = attacks.parse("unveil")(client.model, received, knowledge, generator=chance)

    def enhanced(name: str, rough: Reconstruction) -> Reconstruction:
        enhancer = parse_enhancer(name)
        assert enhancer is not None
        refuse_seen(enhancer, client.batch.images)
        facts = {"model": client.model, "update": received, "knowledge": knowledge}
        return enhance(enhancer, rough, class_names=client.class_names, **facts)[0]

    drawer = parse_enhancer(semantic)
    assert drawer is not None
    nameless = replace(guess, labels=torch.full_like(guess.labels, NEITHER))
    # Drawn without the label, but put in order and told of by the labels of the attack.
    unnamed = replace(drawer(nameless, class_names=client.class_names), labels=guess.labels)
    found = {
        "none": guess,
        "faithful": enhanced("faithful", guess),
        "semantic without the label": unnamed,
        "semantic": enhanced(semantic, guess),
        "label alone": replace(guess, images=from_labels(drawer, guess, class_names=client.class_names)),
    }
    originals = client.batch.images
    # One order for all, the attack's own best: what is compared is what enhancers show, not how well it is sorted.
    order = align(originals, replace(guess, labels=torch.arange(len(originals)))).labels
    return {"true": originals} | {name: eight_bit(made.images[order]) for name, made in found.items()}


def table(kept: Mapping[str, Any], source: str) -> Iterator[str]:
    """Share of pictures whose class is named, by what is shown."""
    titles = TITLES[source]
    yield f"| update sent | pictures | {' | '.join(f'named by {title}' for title in titles.values())} | PSNR, dB |"
    yield "|---" * (3 + len(titles)) + "|"
    for channel in CHANNELS:
        runs = _runs(kept, source, channel)
        for name in SHOWN if runs else ():
            cells = []
            for judge in titles:
                known = [value for value in _values(runs, judge, name) if not math.isnan(value)]
                cells.append(f"{statistics.mean(known):.2f} of {len(known)}")
            decibels = "-" if name == "true" else f"{statistics.mean(_values(runs, 'psnr', name)):.2f}"
            yield f"| `{channel}` | {name} | {' | '.join(cells)} | {decibels} |"


def differences(kept: Mapping[str, Any], source: str) -> Iterator[str]:
    """By how much the semantic generator's share is larger, paired by picture."""
    titles = TITLES[source]
    yield f"| update sent | semantic against | {' | '.join(f'{title} | p' for title in titles.values())} |"
    yield "|---" * (2 + 2 * len(titles)) + "|"
    for channel in CHANNELS:
        runs = _runs(kept, source, channel)
        for other in ("faithful", "semantic without the label", "label alone") if runs else ():
            cells = []
            for judge in titles:
                pairs = zip(_values(runs, judge, "semantic"), _values(runs, judge, other), strict=True)
                apart = [a - b for a, b in pairs if not math.isnan(a)]
                gain = bootstrap_mean(apart)
                cells += [f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]", f"{mcnemar(apart):.2g}"]
            yield f"| `{channel}` | {other} | {' | '.join(cells)} |"


def _runs(kept: Mapping[str, Any], source: str, channel: str) -> list[Any]:
    return [run for run in kept.values() if (run["source"], run["channel"]) == (source, channel)]


def mcnemar(apart: Sequence[float]) -> float:
    """Exact two-sided p of as many differences of one sign, were both signs equally likely."""
    more, fewer = sum(value > 0 for value in apart), sum(value < 0 for value in apart)
    total, least = more + fewer, min(more, fewer)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(least + 1)) / 2**total)


def _values(runs: Sequence[Mapping[str, Any]], judge: str, name: str) -> list[float]:
    return [math.nan if value is None else value for run in runs for value in run[judge][name]]


def run(source: str, enhancer: str, kept: dict[str, Any], *, data: Path, batches: int, fresh: bool) -> None:
    """Every client of a source through every channel, unless it is kept; adds to `kept`."""
    checksum = str(parse_enhancer(enhancer).card["checksum"])  # type: ignore[union-attr]
    judges: dict[str, Judge] = {}
    for number, client in enumerate(clients(source, data, batches)):
        for channel in CHANNELS:
            name = f"{source} {channel} {number}"
            if not fresh and kept.get(name, {}).get("checksum") == checksum:
                continue
            judges = judges or judges_of(source, data, client.class_names)
            shown = looks(client, channel, enhancer, seed=number)
            facts: dict[str, Any] = {"source": source, "channel": channel, "checksum": checksum}
            for key, judge in judges.items():
                named = {what: judge(images, client.batch.labels) for what, images in shown.items()}
                # JSON has no NaN
                facts[key] = {what: [None if math.isnan(v) else v for v in row] for what, row in named.items()}
            facts["psnr"] = {what: psnr(client.batch.images, shown[what]).tolist() for what in SHOWN[1:]}
            kept[name] = facts
            write(KEPT, json.dumps(kept, indent=1) + "\n")
            print(
                name, {what: round(statistics.mean(shares(row)), 2) for what, row in facts["names"].items()}, flush=True
            )


def shares(row: Sequence[float | None]) -> list[float]:
    """The values that there are; a zero where there are none."""
    return [value for value in row if value is not None] or [0.0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--only", default="", help="only sources whose name contains this")
    parser.add_argument("--fresh", action="store_true", help="run again what is kept")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"{args.data} is not there; name it with --data")
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for source, enhancer in ENHANCERS.items():
        if args.only in source:
            run(source, enhancer, kept, data=args.data, batches=args.batches, fresh=args.fresh)
    page = PAGE.read_text()
    for source, marker in ((CALTECH, "meaning"), (CIFAR, "meaning-cifar10")):
        page = filled(page, marker, table(kept, source))
        page = filled(page, f"{marker}-differences", differences(kept, source))
    write(PAGE, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
