"""How well the gain of an update is estimated where its length says nothing, over eight small clients.

    python benchmarks/gain.py

Each client has a LeNet and two built-in pictures of its own, 32 px. The truth is how many times longer the received
update is than the one that the client's assumed training makes. Prints a line for each channel; two minutes.
"""

from __future__ import annotations

import sys
from statistics import mean, median

import torch

from unveil import attacks, obfuscations
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.protocols import Knowledge, LocalTraining
from unveil.core.types import Batch, Update
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
"""What was sent through which channel, by which training, and whether the attacker knows the channel."""


def measure(channel: str, training: LocalTraining, known: bool, seed: int) -> tuple[float, float]:
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
        obfuscation=obfuscations.parse(channel) if known else None,
    )
    sent = Update(training(model, batch))
    received = obfuscations.parse(channel)(sent, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 100)
    guess = attacks.parse("unveil:steps=40")(model, received, knowledge, generator=generator)
    (note,) = (note for note in guess.notes if "estimated to be" in note)
    told = float(note.partition("estimated to be ")[2].split()[0])
    once = ASSUMED(model, batch)
    shared = sum(float((received.tensors[name] * once[name]).sum()) for name in once)
    truth = shared / sum(float(tensor.square().sum()) for tensor in once.values())
    return told / truth - 1, float(psnr(batch.images, align(batch.images, guess).images).mean())


def main() -> int:
    for channel, training, known in LINES:
        found = [measure(channel, training, known, seed) for seed in range(CLIENTS)]
        off, decibels = zip(*found, strict=True)
        missed = ", ".join(f"{100 * share:+.1f}" for share in off)
        print(
            f"{channel}{'' if known else ' (not known)'}, client trains by {training}: "
            f"gain off by {missed} %, median {100 * median(map(abs, off)):.1f} %; "
            f"PSNR {', '.join(f'{value:.1f}' for value in decibels)}, mean {mean(decibels):.2f} dB",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
