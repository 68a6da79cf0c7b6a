"""Stand-ins that many tests share: a small network, its client, its update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from seeds import seeded, shifted
from unveil.clients.training import FedSGD
from unveil.core.records import ATTACK, Trial
from unveil.core.types import Batch, Update


class SmallNet(nn.Module):
    """A convolution and two Linear layers: small enough for float64 and finite differences."""

    def __init__(self, classes: int = 10, size: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Flatten())
        self.hidden = nn.Linear(4 * size * size, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.features(x))))


def small_client(*, seed: int = 0, n: int = 4, size: int = 8, classes: int = 10) -> tuple[nn.Module, Batch]:
    """A net and a batch with distinct labels, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        model = SmallNet(classes, size)
    generator = seeded(seed)
    images = torch.rand((n, 3, size, size), generator=generator)
    return model, Batch(images, torch.randperm(classes, generator=generator)[:n])


def small_update(*, seed: int = 0) -> Update:
    """The gradient of `small_client`."""
    model, batch = small_client(seed=seed)
    return Update(FedSGD()(model, batch))


def with_attack(trial: Trial, **fields: Any) -> Trial:
    """The same trial with other fields in the outcome of its attack, such as `scores` or `controls`."""
    outcomes = {**trial.outcomes, ATTACK: replace(trial.outcomes[ATTACK], **fields)}
    return replace(trial, outcomes=outcomes)
