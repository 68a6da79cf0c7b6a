"""A federation that is trained for real, every client's update through an obfuscation: FedAvg, one client at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.advice.data import FederationData
from unveil.clients.sending import obfuscated, trained_update
from unveil.core.arithmetic import full_precision
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.bounds import positive
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.protocols import LocalTraining, Obfuscation
from unveil.core.update import Update
from unveil.core.usercode import running_others

Phase = Literal["start", "middle", "end"]
"""Which round of a federation: the first, the one in the middle, the last."""

TESTED = 10
"""Rounds after which accuracy is measured, at most, beside the last."""

LARGEST = 1e15
"""Largest magnitude in a training that counts as one that works: sums of the squares of larger ones are infinite in
float32, so that neither an attack nor the next step could compute with them."""

PART = 256
"""Test pictures that are run at once."""


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
        diverged: Number of the round, from 1, in which numbers became NaN or larger than `LARGEST`; None if none did.
    """

    obfuscation: str
    seed: int
    accuracy: Mapping[int, float]
    right: list[float]
    wire_bits: int
    weights: Mapping[Phase, Mapping[str, Shaped[Tensor, " ..."]]]
    diverged: int | None = None

    @property
    def final(self) -> float:
        """Accuracy after the last round, that of a guess if the training diverged; in [0, 1]."""
        return sum(self.right) / len(self.right)


def train(
    federation: Federation,
    obfuscation: Obfuscation,
    *,
    seed: int,
    on_round: Callable[[int], None] | None = None,
) -> FederatedRun:
    """Train a federation, each client's update through the obfuscation with randomness of the client's own.

    The server subtracts the mean of the received updates. A training whose numbers become NaN or larger than
    `LARGEST` ends there, and its model counts as one that guesses.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server.
        seed: One of the federation's seeds. The result depends on nothing else.
        on_round: Called with the number of finished rounds.

    Raises:
        UsageError: The model or the obfuscation cannot be run.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    """
    model = copy.deepcopy(federation.starts[seed])
    sources = [_sources(seed, client) for client in range(federation.clients)]
    by_round = {number: phase for phase, number in federation.phases.items()}
    every = max(1, federation.rounds // TESTED)
    weights: dict[Phase, Mapping[str, Shaped[Tensor, " ..."]]] = {}
    accuracy: dict[int, float] = {}
    right: list[float] = []
    bits, diverged = 0, None
    for number in range(federation.rounds):
        if number in by_round:
            weights[by_round[number]] = {name: t.detach().clone() for name, t in model.state_dict().items()}
        received, is_sound = [], True
        for client, (for_training, for_obfuscation) in enumerate(sources):
            batch = federation.held(client, number, seed=seed)
            with (
                full_precision(batch.images.device),
                running_others(training=federation.training, obfuscation=obfuscation),
            ):
                sent = trained_update(federation.training, model, batch, generator=for_training)
                if _is_sound(sent.tensors.values()):
                    own = for_client(obfuscation, model, batch, federation.training)
                    sent = obfuscated(sent, own, generator=for_obfuscation, training=federation.training)
            is_sound &= _is_sound(sent.tensors.values())
            bits += sent.wire_bits
            received.append(sent)
        _step(model, received, federation.server_lr)
        if not (is_sound and _is_sound(model.state_dict().values())):
            diverged = number + 1
            right = [1 / federation.data.classes] * len(federation.data.test)
            accuracy[number + 1] = 1 / federation.data.classes
            break
        if (number + 1) % every == 0 or number + 1 == federation.rounds:
            right = _right(model, federation.data.test)
            accuracy[number + 1] = sum(right) / len(right)
        if on_round is not None:
            on_round(number + 1)
    return FederatedRun(
        obfuscation=str(obfuscation),
        seed=seed,
        accuracy=accuracy,
        right=right,
        wire_bits=bits,
        weights=weights,
        diverged=diverged,
    )


def _step(model: Module, received: list[Update], server_lr: float) -> None:
    """Subtract the mean of the updates from the weights, and add the mean change of buffers that were sent."""
    state, share = model.state_dict(keep_vars=True), 1 / len(received)
    with torch.no_grad():
        for update in received:
            for name, tensor in update.tensors.items():
                state[name].sub_(tensor, alpha=server_lr * share)
            if update.buffers is not None:
                for name, tensor in update.buffers.statistics.tensors.items():
                    state[name].add_(tensor, alpha=share)
        first = received[0].buffers
        for name, tensor in ({} if first is None else first.counters).items():  # all clients count alike
            state[name].add_(tensor)


def _right(model: Module, test: Batch) -> list[float]:
    """For each test picture 1 if its highest output is its label's, else 0."""
    found: list[Int[Tensor, " _"]] = []
    with torch.no_grad():
        for start in range(0, len(test), PART):
            part = slice(start, start + PART)
            logits = run(in_mode(model, "eval"), test.images[part], {}, draws=0)
            found.append((logits.argmax(1) == test.labels[part]).long())
    return [float(value) for value in torch.cat(found)]


def _is_sound(tensors: Iterable[Shaped[Tensor, " ..."]]) -> bool:
    """Whether no value is NaN or larger than `LARGEST`."""
    return all(bool((tensor.abs() <= LARGEST).all()) for tensor in tensors)


def _sources(seed: int, client: int) -> tuple[Generator, Generator]:
    """The client's generators, of its local training and of its obfuscation."""
    words = np.random.SeedSequence([seed, client]).generate_state(2, np.uint64)
    return Generator().manual_seed(int(words[0])), Generator().manual_seed(int(words[1]))


def _entropy(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
