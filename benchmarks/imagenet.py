"""A client with some of ImageNet's pictures, each of another class, and the lines of a table over several of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch.nn import Module

from benchmarks.frame import Case, Places, Result, Results
from benchmarks.reading import read, tensor
from unveil.clients import training as trainings
from unveil.clients.client import Client

FILE = "imagenet700_256.npz"
PICTURES, CLASSES = 700, 1000  # pictures of the file, one a class, sorted by class; classes of ImageNet

Line = TypeVar("Line", bound=Hashable)


def imagenet_client(
    places: Places, numbers: Sequence[int], *, size: int, name: str, model_name: str, model: Module, training: str
) -> Client:
    """Return a client.

    Args:
        places: Where the pictures lie.
        numbers: Numbers of its pictures in the file.
        size: Side of its pictures in pixels.
        name: Its name.
        model_name: Name of its network.
        model: Its network.
        training: SPEC of its local training.
    """
    pictures, labels, _, _ = read(places.data, FILE, limit=max(numbers) + 1)
    return Client(
        name=name,
        model_name=model_name,
        model=model,
        images=tensor([pictures[number] for number in numbers], size),
        labels=torch.from_numpy(labels[list(numbers)]),
        classes=CLASSES,
        training=trainings.parse(training),
        source="imagenet",
    )


def by_line(cases: Sequence[Case], results: Results, line: Callable[[Case], Line]) -> dict[Line, list[Result]]:
    """Return the results of the cases that were run, those of one line together."""
    grouped: dict[Line, list[Result]] = {}
    for case in cases:
        if str(case) in results:
            grouped.setdefault(line(case), []).append(results[str(case)])
    return grouped


def means(found: Sequence[Result]) -> dict[str, float]:
    """Return the mean over some results of PSNR, of the blind guess's, of SSIM, and of the seconds."""
    return {key: statistics.mean(run[key] for run in found) for key in ("psnr", "psnr_blind", "ssim", "seconds")}
