"""What the learned priors add: on the published batch, and on sources they were not trained on.

    python benchmarks/priors.py [--data DIR] [--anchor DIR] [--only anchor] [--fresh]

The attack is run once a trial, and every enhancer is given its pictures. Each trial is kept in
benchmarks/results/priors.json as soon as it ends; started again, what is there is not run again. Pictures that an
enhancer was trained on, or near-duplicates of them, are left out. docs/priors.md gets the tables.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from anchor import anchor_scene, measured
from run import DEFAULT_ANCHOR, HERE, QSGD16, RESULTS, write
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.fingerprints import fingerprints, overlap
from unveil.core.types import Batch
from unveil.enhancers import CATALOGUE
from unveil.enhancers.learned import SHIPPED, Learned
from unveil.fitting.sources import read_source
from unveil.report.statistics import bootstrap_mean

DEFAULT_DATA = HERE.parents[1] / "shared" / "data"
PAGE = HERE.parent / "docs" / "priors.md"
KEPT = RESULTS / "priors.json"
QSGD8, QSGD2, TOP5, TOP1 = "qsgd:levels=8,norm=max", "qsgd:levels=2,norm=max", "topk:density=0.05", "topk:density=0.01"
FEDAVG = "fedavg:steps=5,lr=0.003"
CLASSES = 1000  # of the victims; every picture of a batch has a class of its own
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Trial:
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
TRIALS = (
    *(Trial(source="anchor", obfuscation=o, training=t) for o, t, *_ in ANCHOR),
    *(Trial(source=s, obfuscation=o, part=part) for part in range(2) for s in HELD_OUT for o in ("none", QSGD8)),
    *(Trial(source="anchor", obfuscation=o, training=t, seed=seed) for seed in (1, 2) for o, t, *_ in ANCHOR),
    *(Trial(source="anchor", obfuscation=o, attack="unveil+", seed=s) for s in range(3) for o in LOOPED),
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
    seen = torch.cat([Learned(name, SHIPPED / f"{name}.safetensors").seen for name in CATALOGUE])
    known = set(overlap(fingerprints(images), seen).tolist())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row for row in order if row not in known]
    return Batch(images[rows], labels[rows])


def scene_of(trial: Trial, anchor: Path, data: Path) -> Client:
    """The client of a trial."""
    if trial.source == "anchor":
        return anchor_scene(anchor, model="lenet", batch=BATCH, training_spec=trial.training, seed=trial.seed)
    images = pictures(trial.source, data).images[BATCH * trial.part : BATCH * (trial.part + 1)]
    side = images.shape[-1]
    if side % 4:
        images = F.interpolate(images, size=(side // 4 * 4,) * 2, mode="area")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Client(
        name=trial.source,
        model_name="lenet",
        model=build_model("lenet", image_shape=shape, classes=CLASSES, seed=trial.seed),
        images=images,
        labels=torch.arange(len(images)),
        classes=CLASSES,
        training=training.parse(trial.training),
        source=trial.source,
    )


def key(trial: Trial) -> str:
    """What a trial's results are kept under."""
    return " ".join(map(str, astuple(trial)))


def mean(runs: Sequence[dict[str, Any]], name: str) -> float | None:
    """Of a score over the runs; None where one has none."""
    values = [run[name] for run in runs if run.get(name) is not None]
    return statistics.mean(values) if values and len(values) == len(runs) else None


def anchor_table(kept: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """One line an update and an enhancer."""
    yield "| update sent | enhancer | PSNR dB (to reach) | LPIPS (to reach) | seconds | kept | seeds |"
    yield "|---|---|---|---|---|---|---|"
    for attack in BESIDE:
        for obfuscation, local, decibels, likeness in ANCHOR:
            wanted = [t for t in TRIALS if (t.source, t.obfuscation, t.training) == ("anchor", obfuscation, local)]
            found = [kept[key(t)] for t in wanted if t.attack == attack and key(t) in kept]
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


def held_out_table(kept: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The gain of each enhancer over none, paired by picture."""
    yield "| pictures | update sent | none, dB | gain faithful, dB | gain sharp, dB | pictures scored |"
    yield "|---|---|---|---|---|---|"
    for source in HELD_OUT:
        for obfuscation in ("none", QSGD8):
            wanted = [t for t in TRIALS if (t.source, t.obfuscation) == (source, obfuscation)]
            found = [{run["enhancer"]: run for run in kept[key(t)]} for t in wanted if key(t) in kept]
            if not found:
                continue
            bare = [value for runs in found for value in runs["none"]["each"]]
            cells = []
            for name in RESTORERS:
                after = [value for runs in found for value in runs[name]["each"]]
                gain = bootstrap_mean([b - a for a, b in zip(bare, after, strict=True)])
                cells.append(f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")
            yield f"| {source} | `{obfuscation}` | {statistics.mean(bare):.2f} | {' | '.join(cells)} | {len(bare)} |"


def filled(page: str, marker: str, lines: Iterator[str]) -> str:
    """The page with a table between its markers."""
    text = f"<!-- {marker}:begin -->\n" + "\n".join(lines) + f"\n<!-- {marker}:end -->"
    return re.sub(rf"<!-- {marker}:begin -->.*?<!-- {marker}:end -->", lambda _: text, page, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchor", type=Path, default=DEFAULT_ANCHOR)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--only", default="", help="only trials whose key contains this")
    parser.add_argument("--fresh", action="store_true", help="run again what is kept")
    args = parser.parse_args()
    for folder in (args.anchor, args.data):
        if not folder.is_dir():
            raise SystemExit(f"{folder} is not there; name it with --anchor or --data")
    kept: dict[str, list[dict[str, Any]]] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    checksums = {name: Learned(name, SHIPPED / f"{name}.safetensors").card["checksum"] for name in RESTORERS}
    for trial in TRIALS:
        name = key(trial)
        known = {run["enhancer"]: run.get("checksum") for run in kept.get(name, [])}
        # What has the prior in its loop is not restored again.
        restorers = RESTORERS if trial.attack == "unveil" else ()
        stale = args.fresh or known != {"none": None, **{name: checksums[name] for name in restorers}}
        if args.only not in name or not stale:
            continue
        runs = measured(
            scene_of(trial, args.anchor, args.data),
            attack=trial.attack,
            obfuscation=trial.obfuscation,
            enhancers=("none", *restorers),
            seed=trial.seed,
            lpips_weights=args.data / "models" / "lpips_alex.npz" if trial.source == "anchor" else None,
        )
        kept[name] = [{**run, "checksum": checksums.get(run["enhancer"])} for run in runs]
        write(KEPT, json.dumps(kept, indent=1) + "\n")
        print(name, *(f"{run['enhancer']} {run['psnr']:.2f} dB {run['lpips'] or ''}" for run in runs), flush=True)
    if PAGE.is_file():
        page = filled(PAGE.read_text(), "anchor", anchor_table(kept))
        write(PAGE, filled(page, "held-out", held_out_table(kept)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
