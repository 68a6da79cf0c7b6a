"""Training a federation for real, every client's update through an obfuscation: FedAvg."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import Module

from unveil.advice.federation import FederatedRun, Federation, Phase
from unveil.advice.round import Received, Rounds, in_turn, is_sound
from unveil.core.batch import Batch
from unveil.core.network import in_mode, run
from unveil.core.protocols import Obfuscation

TESTED = 10
"""Rounds after which accuracy is measured, at most, beside the last."""

PART = 256
"""Test pictures that are run at once."""


def train(
    federation: Federation,
    obfuscation: Obfuscation,
    *,
    seed: int,
    rounds: Rounds | None = None,
    on_round: Callable[[int], None] | None = None,
) -> FederatedRun:
    """Train a federation, each client's update through the obfuscation with randomness of the client's own.

    The server subtracts the mean of the received updates. A training whose numbers become NaN or larger than
    `LARGEST` ends there, and its model counts as one that guesses.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server.
        seed: One of the federation's seeds. The result depends on nothing else.
        rounds: What the clients do; None for one after the other in this process.
        on_round: Called with the number of finished rounds.

    Raises:
        UsageError: The model or the obfuscation cannot be run.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    """
    clients = rounds or in_turn(federation, obfuscation, seed)
    model = copy.deepcopy(federation.starts[seed])
    by_round = {number: phase for phase, number in federation.phases.items()}
    every = max(1, federation.rounds // TESTED)
    weights: dict[Phase, dict[str, Shaped[Tensor, " ..."]]] = {}
    accuracy: dict[int, float] = {}
    right: list[float] = []
    bits, diverged = 0, None
    for number in range(federation.rounds):
        if number in by_round:
            weights[by_round[number]] = {name: t.detach().clone() for name, t in model.state_dict().items()}
        received = clients(model, number)
        bits += sum(one.wire_bits for one in received)
        _step(model, received, federation.server_lr)
        sent = (tensor for one in received for tensor in one.update.tensors.values())
        if not (is_sound(sent) and is_sound(model.state_dict().values())):
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


def _step(model: Module, received: Sequence[Received], server_lr: float) -> None:
    """Subtract the mean of the updates from the weights, and add the mean change of buffers that were sent."""
    state, share = model.state_dict(keep_vars=True), 1 / len(received)
    updates = [one.update for one in received]
    with torch.no_grad():
        for update in updates:
            for name, tensor in update.tensors.items():
                state[name].sub_(tensor, alpha=server_lr * share)
            if update.buffers is not None:
                for name, tensor in update.buffers.statistics.tensors.items():
                    state[name].add_(tensor, alpha=share)
        first = updates[0].buffers
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
