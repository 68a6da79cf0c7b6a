"""A federation, and what a training of it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.advice.data import FederationData
from unveil.core.batch import Batch
from unveil.core.bounds import positive
from unveil.core.errors import UsageError
from unveil.core.protocols import LocalTraining

Phase = Literal["start", "middle", "end"]
"""Which round of a federation: the first, the one in the middle, the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Federation:
    """Who trains on what, and for how long. Each client has as many pictures as every other.

    Args:
        starts: Seed -> the public model before the first round, in eval mode.
        model_name: The model's name, for results.
        data: The pictures.
        clients: Number of clients, which share `data.train` in its order.
        batch: Pictures that a client trains on in one round; it goes through its pictures in a new order each time.
        training: The local training.
        rounds: Number of rounds.
        server_lr: What the server multiplies the mean of the received updates by before it subtracts it from the
            weights: 1 for FedAvg, the learning rate for FedSGD.
        given: What else is known of the model, such as its file of weights, for results.
        notes: What a reader of results must know of the model and the pictures, a sentence each.

    Raises:
        UsageError: A number is out of range, or the pictures cannot be shared evenly.
    """

    starts: Mapping[int, Module]
    model_name: str
    data: FederationData
    clients: int
    batch: int
    training: LocalTraining
    rounds: int
    server_lr: float = 1.0
    given: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        total = len(self.data.train)
        if min(self.clients, self.batch, self.rounds) < 1 or total % self.clients or self.pictures < self.batch:
            raise UsageError(
                f"federation: {self.clients} clients with {total} pictures cannot train on {self.batch} each for "
                f"{self.rounds} rounds; give each client as many pictures as its batch, or more"
            )
        positive("federation", "server_lr", self.server_lr, "1 is FedAvg")

    @property
    def pictures(self) -> int:
        """Pictures of each client."""
        return len(self.data.train) // self.clients

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds: each trains a federation of its own."""
        return tuple(self.starts)

    @property
    def phases(self) -> Mapping[Phase, int]:
        """Phase -> number of its round, from 0; a federation of few rounds has fewer phases."""
        found: dict[Phase, int] = {"start": 0}
        if self.rounds > 2:
            found["middle"] = self.rounds // 2
        if self.rounds > 1:
            found["end"] = self.rounds - 1
        return found

    def held(self, client: int, number: int, *, seed: int) -> Batch:
        """What a client trains on in one round; client and round count from 0."""
        each = self.pictures // self.batch
        drawn = Generator().manual_seed(_entropy(seed, client, 1 + number // each))
        order = torch.randperm(self.pictures, generator=drawn)
        rows = client * self.pictures + order[(number % each) * self.batch : (number % each + 1) * self.batch]
        return Batch(self.data.train.images[rows], self.data.train.labels[rows])

    def settings(self) -> dict[str, Any]:
        """What the results depend on beside pictures and weights, as plain JSON."""
        return {
            "model": self.model_name,
            **self.given,
            "images": self.data.source,
            "clients": self.clients,
            "pictures": self.pictures,
            "batch": self.batch,
            "training": str(self.training),
            "rounds": self.rounds,
            "server_lr": self.server_lr,
            "test": len(self.data.test),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class FederatedRun:
    """One training of a federation through one obfuscation.

    Args:
        obfuscation: SPEC of the obfuscation.
        seed: Its seed.
        accuracy: Number of finished rounds -> share of the test pictures that the model then gets right, in [0, 1].
        right: For each test picture whether the last model gets it right; the chance of a guess where it diverged.
        wire_bits: Size on the wire of the updates of all clients in all rounds, in bits.
        weights: Phase -> the model's parameters and buffers before its round; a phase after a divergence is missing.
        diverged: Number of the round, from 1, in which numbers became NaN or larger than `training.LARGEST`; None if
            none did.
        trainer: What trained it, with its version.
    """

    obfuscation: str
    seed: int
    accuracy: Mapping[int, float]
    right: list[float]
    wire_bits: int
    weights: Mapping[Phase, Mapping[str, Shaped[Tensor, " ..."]]]
    diverged: int | None = None
    trainer: str = ""

    @property
    def final(self) -> float:
        """Accuracy after the last round, that of a guess if the training diverged; in [0, 1]."""
        return sum(self.right) / len(self.right)


def _entropy(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
