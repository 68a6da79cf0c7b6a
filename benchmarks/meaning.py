"""What a semantic generator adds, and what it merely knows from the label: can the class of a picture still be named?

160 test pictures of Caltech-101 in ten clients of 16, sent through obfuscations after which pixels are gone, rebuilt,
and shown to two judges that none of the enhancers shown was trained with: EfficientNet-Lite0 by the names of its
classes where it has them, and a classifier of Caltech's classes on what EfficientNet-Lite0 sees, trained here on the
training part. A hit is the true class among five. The same for 160 test pictures of CIFAR-10 and a ResNet-20; there a
hit is its first choice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.pages import lines
from benchmarks.priors import BATCH, QSGD2, TOP1, pictures
from unveil import attacks, obfuscations
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.batch import Batch
from unveil.core.pixels import eight_bit
from unveil.core.reconstruction import Reconstruction
from unveil.core.types import Images
from unveil.enhancers import parse as parse_enhancer
from unveil.enhancers.consistency import enhance, from_labels, refuse_seen
from unveil.fitting.sources import apart_from, read_source
from unveil.metrics.alignment import align
from unveil.metrics.built_in_classifiers import build_classifier
from unveil.metrics.classifiers import Classifier
from unveil.metrics.pixel import psnr
from unveil.metrics.semantic import classes_named
from unveil.report.statistics import bootstrap_mean

BATCHES = 10
OBFUSCATIONS = (TOP1, QSGD2)
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One client through one obfuscation; other weights of the enhancer are another case."""

    source: str
    obfuscation: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}; {self.obfuscation}; {self.number}; {checksum(ENHANCERS[self.source])}"


@cache
def checksum(enhancer: str) -> str:
    """Checksum of an enhancer's weights."""
    return str(parse_enhancer(enhancer).card["checksum"])  # type: ignore[union-attr]


def cases() -> Sequence[Case]:
    """Every client of each source through every obfuscation."""
    return [
        Case(source=source, obfuscation=obfuscation, number=number)
        for source in ENHANCERS
        for number in range(BATCHES)
        for obfuscation in OBFUSCATIONS
    ]


def run(case: Case, places: Places) -> Result:
    """What every judge says of every way to show the client's pictures."""
    client = client_of(case.source, places.data, case.number)
    shown = looks(client, case.obfuscation, ENHANCERS[case.source], seed=case.number)
    facts: dict[str, Any] = {}
    for key, judge in judges_of(case.source, places.data).items():
        named = {what: judge(images, client.labels) for what, images in shown.items()}
        # JSON has no NaN.
        facts[key] = {what: [None if math.isnan(v) else v for v in row] for what, row in named.items()}
    return {**facts, "psnr": {what: psnr(client.images, shown[what]).tolist() for what in SHOWN[1:]}}


@cache
def judges_of(source: str, data: Path) -> Mapping[str, Judge]:
    """Who says whether a class can be named."""
    names = client_of(source, data, 0).class_names
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


def client_of(source: str, data: Path, number: int) -> Client:
    """Batch `number` of a source's test pictures, with a LeNet of its own."""
    if source == CIFAR:
        read = read_source(data / "cifar10_test4k.npz")
        order = torch.randperm(len(read), generator=torch.Generator().manual_seed(0))[: BATCH * BATCHES]
        found = Batch(read.images(order.tolist()), torch.from_numpy(read.labels)[order])
        names = read.class_names
    else:
        found, names = pictures(source, data), read_source(data / "caltech99_128.npz", split=1).class_names
    shape = (found.images.shape[1], found.images.shape[2], found.images.shape[3])
    rows = slice(BATCH * number, BATCH * (number + 1))
    return Client(
        build_model("lenet", image_shape=shape, classes=len(names), seed=number),
        found.images[rows],
        found.labels[rows],
        classes=len(names),
        class_names=names,
        name=f"{source} {number}",
        model_name="lenet",
        source=source,
    )


def looks(client: Client, obfuscation: str, semantic: str, *, seed: int) -> dict[str, Images]:
    """A client's pictures as they are, as rebuilt, and as enhancers show them, in the client's order."""
    outcome = play(client, obfuscations.parse(obfuscation), attacks.parse("unveil"), seed=seed)
    guess = outcome.attack

    def enhanced(name: str, rough: Reconstruction) -> Reconstruction:
        enhancer = parse_enhancer(name)
        assert enhancer is not None
        refuse_seen(enhancer, client.images)
        facts = {"model": client.model, "update": outcome.received, "knowledge": outcome.knowledge}
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
    originals = client.images
    # One order for all, the attack's own best: what is compared is what enhancers show, not how well it is sorted.
    order = align(originals, replace(guess, labels=torch.arange(len(originals)))).labels
    return {"true": originals} | {name: eight_bit(made.images[order]) for name, made in found.items()}


def table(kept: Results, source: str) -> Iterator[str]:
    """Share of pictures whose class is named, by what is shown."""
    titles = TITLES[source]
    yield f"| update sent | pictures | {' | '.join(f'named by {title}' for title in titles.values())} | PSNR, dB |"
    yield "|---" * (3 + len(titles)) + "|"
    for obfuscation in OBFUSCATIONS:
        runs = _runs(kept, source, obfuscation)
        for name in SHOWN if runs else ():
            cells = []
            for judge in titles:
                known = [value for value in _values(runs, judge, name) if not math.isnan(value)]
                cells.append(f"{statistics.mean(known):.2f} of {len(known)}")
            decibels = "-" if name == "true" else f"{statistics.mean(_values(runs, 'psnr', name)):.2f}"
            yield f"| `{obfuscation}` | {name} | {' | '.join(cells)} | {decibels} |"


def differences(kept: Results, source: str) -> Iterator[str]:
    """By how much the semantic generator's share is larger, paired by picture."""
    titles = TITLES[source]
    yield f"| update sent | semantic against | {' | '.join(f'{title} | p' for title in titles.values())} |"
    yield "|---" * (2 + 2 * len(titles)) + "|"
    for obfuscation in OBFUSCATIONS:
        runs = _runs(kept, source, obfuscation)
        for other in ("faithful", "semantic without the label", "label alone") if runs else ():
            cells = []
            for judge in titles:
                pairs = zip(_values(runs, judge, "semantic"), _values(runs, judge, other), strict=True)
                apart = [a - b for a, b in pairs if not math.isnan(a)]
                gain = bootstrap_mean(apart)
                cells += [f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]", f"{mcnemar(apart):.2g}"]
            yield f"| `{obfuscation}` | {other} | {' | '.join(cells)} |"


def _runs(kept: Results, source: str, obfuscation: str) -> list[Any]:
    wanted = [case for case in cases() if (case.source, case.obfuscation) == (source, obfuscation)]
    return [kept[str(case)] for case in wanted if str(case) in kept]


def mcnemar(apart: Sequence[float]) -> float:
    """Exact two-sided p of as many differences of one sign, were both signs equally likely."""
    more, fewer = sum(value > 0 for value in apart), sum(value < 0 for value in apart)
    total, least = more + fewer, min(more, fewer)
    return min(1.0, 2 * sum(math.comb(total, k) for k in range(least + 1)) / 2**total)


def _values(runs: Sequence[Mapping[str, Any]], judge: str, name: str) -> list[float]:
    return [math.nan if value is None else value for run in runs for value in run[judge][name]]


def _blocks(source: str, marker: str) -> tuple[Block, Block]:
    page = DOCS / "priors.md"
    return (
        Block(page=page, marker=marker, table=lines(partial(table, source=source))),
        Block(page=page, marker=f"{marker}-differences", table=lines(partial(differences, source=source))),
    )


BENCHMARK = Benchmark(
    name="meaning",
    title="can the class of a picture still be named, before and after an enhancer",
    cases=cases,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=25,
    blocks=(*_blocks(CALTECH, "meaning"), *_blocks(CIFAR, "meaning-cifar10")),
)
