"""The pictures that the benchmarks read where they are at hand; nothing of them is kept here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Found = tuple[list[Any], Any, list[str], Any]


def read(data: Path, name: str, limit: int | None = None) -> Found:
    """Pictures as arrays, labels, class names and the open file, by the reader that lies beside the files."""
    spec = importlib.util.spec_from_file_location("unveil_benchmark_reader", data / "load.py")
    if spec is None or spec.loader is None or not (data / "load.py").is_file():
        raise SystemExit(f"{data} holds no load.py; name the folder of the pictures with --data")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Found = module.read(data / name, limit=limit)
    pictures, labels, names, npz = found
    if labels is not None and len(npz["labels"]) > npz_pictures(npz) and (np.diff(npz["labels"]) >= 0).all():
        # CIFAR-10's files keep the labels of more pictures than they hold: as many of each class, in order.
        labels = np.repeat(np.arange(len(names)), npz_pictures(npz) // len(names))[: len(pictures)]
    return pictures, labels, names, npz


def npz_pictures(npz: Any) -> int:
    """How many pictures a file holds: its blobs, each of which may be a sheet of several."""
    sheet = int(npz["sheet"]) if "sheet" in npz.files else 1
    return (len(npz["offsets"]) - 1) * max(sheet, 1) ** 2


def tensor(pictures: Sequence[Any], size: int) -> torch.Tensor:
    """Pictures as n x 3 x size x size in [0, 1], scaled down by area."""
    stacked = torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in pictures])
    if stacked.shape[-1] == size:
        return stacked
    return torch.nn.functional.interpolate(stacked, size=(size, size), mode="area")
