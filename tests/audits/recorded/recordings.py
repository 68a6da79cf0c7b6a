"""Recordings of a small simulated client, whose pictures are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fakes import small_client
from unveil.audits.recorded.client import RecordedClient
from unveil.audits.recorded.making import recorded_client
from unveil.captures.manifest import Manifest, declared
from unveil.captures.reading import read_recording
from unveil.captures.recording import Recording
from unveil.captures.writing import write_recording
from unveil.clients.client import Client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.pixels import png_of
from unveil.core.protocols import Obfuscation

MODEL = "fakes:SmallNet?size=16"
FACTS: dict[str, Any] = {"image_shape": [3, 16, 16], "classes": 10, "examples": 4, "mode": "eval"}
AVERAGED: dict[str, Any] = {"learning_rate": 0.05, "steps": 3, "optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0}


def simulated(training: FedAvg | FedSGD | None = None) -> Client:
    """A client of ours, whose pictures have 8 bits a value, as files have."""
    model, batch = small_client(size=16)
    images = (batch.images * 255).round() / 255
    return Client(model, images, batch.labels, training=training or FedSGD(), classes=10)


def recorded(folder: Path, sender: Client, sent_by: Obfuscation | None = None, /, **facts: Any) -> Path:
    """Record the client's update of seed 0, with weights before it."""
    update = sender.update(sent_by, seed=0)
    path = folder / "update.safetensors"
    before = dict(sender.model.state_dict())
    manifest = declared(**FACTS | facts)
    if isinstance(sender.training, FedSGD):
        write_recording(path, manifest=manifest, before=before, gradient=update.tensors)
    else:
        delta = {name: -tensor for name, tensor in update.tensors.items()}
        write_recording(path, manifest=manifest, before=before, delta=delta)
    return path


def made(path: Path, **options: Any) -> RecordedClient:
    return recorded_client(read_recording(path), MODEL, **options)


def of_facts(*, gradient: bool = False, **facts: Any) -> Recording:
    """A recording of one number with these facts."""
    tensors = {"w": torch.ones(1)}
    manifest: Manifest = declared(**facts)
    parts = {"gradient": tensors} if gradient else {"delta": tensors}
    return Recording(path=Path("update.safetensors"), digest="0" * 64, manifest=manifest, **parts)  # type: ignore[arg-type]


def save_truth(folder: Path, client: Client) -> Path:
    (folder / "truth").mkdir()
    for number, picture in enumerate(client.images):
        (folder / "truth" / f"{number}.png").write_bytes(png_of(picture))
    return folder / "truth"
