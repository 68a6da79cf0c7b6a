"""What the learned priors add: on the published batch, and on sources that they were not trained on.

The attack is run once a case, and every restorer is given its pictures. Pictures that an enhancer was trained on, or
near-duplicates of them, are left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.measuring import measured, published_client
from benchmarks.pages import lines
from benchmarks.published import QSGD16
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.batch import Batch
from unveil.core.fingerprints import fingerprints, overlap
from unveil.enhancers import CATALOGUE, path_of
from unveil.enhancers.learned import SHIPPED, Learned
from unveil.fitting.sources import read_source
from unveil.report.statistics import bootstrap_mean

QSGD8, QSGD2, TOP5, TOP1 = "qsgd:levels=8,norm=max", "qsgd:levels=2,norm=max", "topk:density=0.05", "topk:density=0.01"
FEDAVG = "fedavg:steps=5,lr=0.003"
CLASSES = 1000  # of the victims; every picture of a batch has a class of its own
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of the attack.

    Args:
        source: `anchor`, or a source of pictures that no enhancer was trained on.
        part: Which batch of the source.
    """

    source: str
    obfuscation: str
    training: str = "fedsgd"
    attack: str = "unveil"
    seed: int = 0
    part: int = 0

    def __str__(self) -> str:
        """With the checksums of what it tests, so that other weights are another case."""
        return "; ".join(map(str, (*astuple(self), *checksums().values())))


@cache
def checksums() -> dict[str, str]:
    """Shipped restorer -> checksum of its weights."""
    return {name: str(Learned(name, SHIPPED / f"{name}.safetensors").card["checksum"]) for name in RESTORERS}


ANCHOR = (
    ("none", "fedsgd", None, None),
    (QSGD16, "fedsgd", 28.0, 0.12),
    (QSGD8, "fedsgd", None, None),
    (QSGD2, "fedsgd", 21.5, 0.30),
    (TOP5, "fedsgd", 22.5, 0.25),
    (TOP1, "fedsgd", None, None),
    ("none", FEDAVG, 26.5, 0.15),
)
"""Update sent, local training, PSNR to reach (faithful), LPIPS to reach (sharp)."""

RESTORERS = ("faithful", "sharp")
HELD_OUT = ("Caltech test", "blood cells", "chest X-rays")
BESIDE = ("unveil", "unveil+")
LOOPED = ("none", QSGD8, QSGD2, TOP1)
CASES = (
    *(Case(source="anchor", obfuscation=o, training=t) for o, t, *_ in ANCHOR),
    *(Case(source=s, obfuscation=o, part=part) for part in range(2) for s in HELD_OUT for o in ("none", QSGD8)),
    *(Case(source="anchor", obfuscation=o, training=t, seed=seed) for seed in (1, 2) for o, t, *_ in ANCHOR),
    *(Case(source="anchor", obfuscation=o, attack="unveil+", seed=s) for s in range(3) for o in LOOPED),
)


def pictures(source: str, data: Path) -> Batch:
    """All pictures of a held-out source, in an order drawn once, without those that an enhancer knows."""
    if source == "chest X-rays":
        with np.load(data / "pneumoniamnist28.npz") as file:
            images = torch.from_numpy(file["test_images"]).float().div(255)[:, None].expand(-1, 3, -1, -1)
            labels = torch.from_numpy(file["test_labels"]).long().flatten()
    else:
        name = {"Caltech test": "caltech99_128.npz", "blood cells": "bccd_cells96.npz"}[source]
        found = read_source(data / name, split=1)
        images, labels = found.images(range(len(found))), torch.from_numpy(found.labels)
    seen = torch.cat([Learned(name, path_of(name)).seen for name in CATALOGUE])
    known = set(overlap(fingerprints(images), seen).tolist())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row for row in order if row not in known]
    return Batch(images[rows], labels[rows])


def client_of(case: Case, anchor: Path, data: Path) -> Client:
    """The client of a case."""
    if case.source == "anchor":
        return published_client(anchor, training_spec=case.training, seed=case.seed)
    images = pictures(case.source, data).images[BATCH * case.part : BATCH * (case.part + 1)]
    side = images.shape[-1]
    if side % 4:
        images = F.interpolate(images, size=(side // 4 * 4,) * 2, mode="area")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Client(
        name=case.source,
        model_name="lenet",
        model=build_model("lenet", image_shape=shape, classes=CLASSES, seed=case.seed),
        images=images,
        labels=torch.arange(len(images)),
        classes=CLASSES,
        training=training.parse(case.training),
        source=case.source,
    )


def run(case: Case, places: Places) -> Result:
    """The attack once, its pictures given to every restorer; what has a prior in its loop is not restored again."""
    return measured(
        client_of(case, places.anchor, places.data),
        attack=case.attack,
        obfuscation=case.obfuscation,
        enhancers=("none", *(RESTORERS if case.attack == "unveil" else ())),
        seed=case.seed,
        lpips_weights=places.data / "models" / "lpips_alex.npz" if case.source == "anchor" else None,
    )


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here; LPIPS's weights lie beside the pictures."""
    return places.no_pictures or (places.no_batch if case.source == "anchor" else "")


def mean(runs: Sequence[dict[str, Any]], name: str) -> float | None:
    """Of a score over the runs; None where one has none."""
    values = [run[name] for run in runs if run.get(name) is not None]
    return statistics.mean(values) if values and len(values) == len(runs) else None


@lines
def anchor_table(kept: Results) -> Iterator[str]:
    """One line an update and an enhancer."""
    yield "| update sent | enhancer | PSNR dB (earlier) | LPIPS (earlier) | seconds | kept | seeds |"
    yield "|---|---|---|---|---|---|---|"
    for attack in BESIDE:
        for obfuscation, local, decibels, likeness in ANCHOR:
            wanted = [t for t in CASES if (t.source, t.obfuscation, t.training) == ("anchor", obfuscation, local)]
            found = [kept[str(t)] for t in wanted if t.attack == attack and str(t) in kept]
            for runs in zip(*found, strict=True):
                name = runs[0]["enhancer"]
                if attack != "unveil" and name != "none":
                    continue
                psnr, lpips = mean(runs, "psnr"), mean(runs, "lpips")
                sent = "`, then `".join(spec for spec in (local, obfuscation) if spec not in ("fedsgd", "none"))
                top = f" ({decibels})" if decibels is not None and name == "faithful" else ""
                low = f" ({likeness})" if likeness is not None and name == "sharp" else ""
                share = mean(runs, "share")
                yield (
                    f"| `{sent or 'none'}` | {name if attack == 'unveil' else '(in the loop, `unveil+`)'} "
                    f"| {psnr:.2f}{top} | {'-' if lpips is None else f'{lpips:.3f}'}{low} "
                    f"| {mean(runs, 'seconds'):.0f} "
                    f"| {'-' if share is None else f'{share:.2f}'} | {len(runs)} |"
                )


@lines
def held_out_table(kept: Results) -> Iterator[str]:
    """The gain of each enhancer over none, paired by picture."""
    yield "| pictures | update sent | none, dB | gain faithful, dB | gain sharp, dB | pictures scored |"
    yield "|---|---|---|---|---|---|"
    for source in HELD_OUT:
        for obfuscation in ("none", QSGD8):
            wanted = [t for t in CASES if (t.source, t.obfuscation) == (source, obfuscation)]
            found = [{run["enhancer"]: run for run in kept[str(t)]} for t in wanted if str(t) in kept]
            if not found:
                continue
            bare = [value for runs in found for value in runs["none"]["each"]]
            cells = []
            for name in RESTORERS:
                after = [value for runs in found for value in runs[name]["each"]]
                gain = bootstrap_mean([b - a for a, b in zip(bare, after, strict=True)])
                cells.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
            yield f"| {source} | `{obfuscation}` | {statistics.mean(bare):.2f} | {' | '.join(cells)} | {len(bare)} |"


BENCHMARK = Benchmark(
    name="priors",
    title="what restorers add, on the published batch and on sources that they do not know",
    cases=lambda: CASES,
    run=run,
    missing=missing,
    minutes=20,
    blocks=(
        Block(page=DOCS / "priors.md", marker="anchor", table=anchor_table),
        Block(page=DOCS / "priors.md", marker="held-out", table=held_out_table),
    ),
)
