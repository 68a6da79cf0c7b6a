"""What theory allows any attack beside what unveil's attack reaches, on DP-SGD with more and more noise.

Each client has a LeNet, eight of CIFAR-10's test pictures and a gallery of 200 others, drawn by chance. Gradients of
single pictures are clipped to 1; the noise on their sum is the multiplier.
"""

from __future__ import annotations

from statistics import fmean

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.reading import read, tensor
from unveil import attacks, obfuscations
from unveil.audits.scoring import MetricSelection
from unveil.audits.trial import run_trial
from unveil.clients.client import Client, EvaluationSet
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.privacy.gaussian import epsilon_of, success_bound
from unveil.report.guarantees import epsilon
from unveil.report.statistics import wilson

SHAPE, CLASSES, BATCH, DECOYS, CLIENTS = (3, 32, 32), 10, 8, 200, 4
NOISES = (0.0001, 0.001, 0.01, 0.1, 0.3, 1.0, 3.0)
CASES = tuple((noise, seed) for noise in NOISES for seed in range(CLIENTS))


def client_of(places: Places, noise: float, seed: int) -> Client:
    """One client with its gallery, of pictures that a seed draws."""
    pictures, labels, _, _ = read(places.data, "cifar10_test4k.npz")
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[: BATCH + DECOYS].tolist()
    images = tensor([pictures[at] for at in chosen], SHAPE[1])
    classes = torch.tensor([int(labels[at]) for at in chosen])
    return Client(
        build_model("lenet", image_shape=SHAPE, classes=CLASSES, seed=seed),
        images[:BATCH],
        classes[:BATCH],
        training=FedSGD(clip=1.0, noise=noise),
        evaluation=EvaluationSet(decoys=images[BATCH:], decoy_labels=classes[BATCH:]),
    )


def run(case: tuple[float, int], places: Places) -> Result:
    """Of each picture whether it was found first, and the chance of that without the update; PSNR in dB."""
    noise, seed = case
    client, metrics = client_of(places, noise, seed), MetricSelection(decoys=DECOYS)
    attack = attacks.parse("unveil:steps=50")
    trial = run_trial(
        client, obfuscations.parse("none"), attack, seed=seed, metrics=metrics(client), chance=metrics.chance(client)
    )
    return {"found": trial.scores["reid_top1"], "chance": trial.chance, "psnr": fmean(trial.scores["psnr"])}


def table(results: Results) -> str:
    """A line for each noise multiplier."""
    rows = [
        "| noise multiplier | epsilon | found first by `unveil` | by any attack, at most | by chance | PSNR dB |",
        "|---|---|---|---|---|---|",
    ]
    for noise in NOISES:
        made = [results[str((noise, seed))] for seed in range(CLIENTS) if str((noise, seed)) in results]
        if not made:
            continue
        hits, chances = [f for one in made for f in one["found"]], [c for one in made for c in one["chance"]]
        share = wilson(sum(hits), len(hits))
        allowed = fmean(success_bound(chance, 1 / noise) for chance in chances)
        cells = (
            f"{noise:g}",
            epsilon(epsilon_of(1e-5, 2 / noise)),
            f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}]",
            f"{allowed:.3f}",
            f"{fmean(chances):.3f}",
            f"{fmean(one['psnr'] for one in made):.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="bounds",
    title="what theory allows any attack beside what unveil's attack reaches, on DP-SGD",
    cases=lambda: CASES,
    run=run,
    missing=lambda case, places: places.no_pictures,
    minutes=10,
    blocks=(Block(page=DOCS / "privacy.md", marker="bounds", table=table),),
)
