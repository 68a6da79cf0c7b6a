"""How well the gain of an update is estimated where its length says nothing, over eight small clients.

Each client has a LeNet and two built-in pictures of its own, 32 px. The truth is how many times longer the received
update is than the one that the client's assumed training makes.
"""

from __future__ import annotations

from statistics import mean, median

import torch

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from unveil import attacks, obfuscations
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.update import Update
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr

SHAPE, CLIENTS = (3, 32, 32), 8
ASSUMED = FedSGD()
LINES: tuple[tuple[str, LocalTraining, bool], ...] = (
    ("clip:norm=0.1", ASSUMED, True),
    ("dpsgd:clip=1,noise=0.001", ASSUMED, True),
    ("qsgd:levels=16,norm=max", ASSUMED, False),
    ("none", FedAvg(steps=4, lr=0.005), True),
)
"""What was sent through which obfuscation, by which training, and whether the attacker knows the obfuscation."""


def measure(sent_through: str, training: LocalTraining, known: bool, seed: int) -> tuple[float, float]:
    """By which share the estimate misses the truth, and the mean PSNR of what came back."""
    pictures = load_pictures("builtin", count=2, size=SHAPE[1], skip=(2 * seed) % 13)
    model = build_model("lenet", image_shape=SHAPE, classes=10, seed=seed)
    batch = Batch(pictures.images, pictures.labels % 10)
    knowledge = Knowledge(
        training=ASSUMED,
        scale=training == ASSUMED,
        image_shape=SHAPE,
        num_images=2,
        classes=10,
        labels=batch.labels,
        obfuscation=obfuscations.parse(sent_through) if known else None,
    )
    sent = Update(training(model, batch))
    received = obfuscations.parse(sent_through)(sent, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 100)
    guess = attacks.parse("unveil:steps=40")(model, received, knowledge, generator=generator)
    (note,) = (note for note in guess.notes if "estimated to be" in note)
    estimate = float(note.partition("estimated to be ")[2].split()[0])
    once = ASSUMED(model, batch)
    shared = sum(float((received.tensors[name] * once[name]).sum()) for name in once)
    truth = shared / sum(float(tensor.square().sum()) for tensor in once.values())
    return estimate / truth - 1, float(psnr(batch.images, align(batch.images, guess).images).mean())


CASES = tuple((line, seed) for line in range(len(LINES)) for seed in range(CLIENTS))


def run(case: tuple[int, int], places: Places) -> Result:
    """Relative error of the gain, and PSNR in dB."""
    line, seed = case
    error, decibels = measure(*LINES[line], seed)
    return {"error": error, "psnr": decibels}


def table(results: Results) -> str:
    """A line for each update that is sent."""
    rows = ["| update sent | gain off by, median of 8 clients | worst | PSNR dB, mean |", "|---|---|---|---|"]
    for number, (sent, training, known) in enumerate(LINES):
        found = [results[str((number, seed))] for seed in range(CLIENTS) if str((number, seed)) in results]
        if not found:
            continue
        off = [abs(result["error"]) for result in found]
        what = f"`{sent}`" if training == ASSUMED else f"`{training}`, then `{sent}`"
        rows.append(
            f"| {what}{'' if known else ', not known'} | {median(off):.1%} | {max(off):.1%} "
            f"| {mean(result['psnr'] for result in found):.2f} |"
        )
    return "\n".join(rows) + "\n"


BENCHMARK = Benchmark(
    name="gain",
    title="how well the gain is estimated where the length of an update says nothing",
    cases=lambda: CASES,
    run=run,
    minutes=2,
    blocks=(Block(page=DOCS / "method.md", marker="gain", table=table),),
)
