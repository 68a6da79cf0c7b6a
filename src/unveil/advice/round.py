"""What the clients of a federation do in one round: each trains on its pictures, and its update is obfuscated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.advice.federation import Federation
from unveil.clients.sending import obfuscated, trained_update
from unveil.core.arithmetic import chosen_precision
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.core.usercode import running_others

LARGEST = 1e15
"""Largest magnitude in a training that counts as one that works: sums of the squares of larger ones are infinite in
float32, so that neither an attack nor the next step could compute with them."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """What the server receives from a client.

    Args:
        update: The update.
        wire_bits: Its size on the wire, in bits.
    """

    update: Update
    wire_bits: int


Rounds = Callable[[Module, int], Sequence[Received]]
"""From the model and the number of a round, from 0, to what the server receives from each client, in their order."""


def in_turn(federation: Federation, obfuscation: Obfuscation, seed: int) -> Rounds:
    """Return the rounds in which one client trains after the other, in this process.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server.
        seed: One of the federation's seeds.
    """
    sources = [sources_of(seed, client) for client in range(federation.clients)]

    def received(model: Module, number: int) -> Sequence[Received]:
        found = []
        for client, (for_training, for_obfuscation) in enumerate(sources):
            batch = federation.held(client, number, seed=seed)
            own = own_update(federation, model, batch, generator=for_training)
            sent = sent_update(federation, obfuscation, model, batch, own, generator=for_obfuscation)
            found.append(Received(update=sent, wire_bits=sent.wire_bits))
        return found

    return received


def own_update(federation: Federation, model: Module, batch: Batch, *, generator: Generator) -> Update:
    """Return what a client computes from its pictures.

    Args:
        federation: The federation.
        model: The model before the round.
        batch: What the client trains on in the round; see `Federation.held`.
        generator: Source of the client's noise and of the network's random draws.

    Raises:
        UsageError: The model cannot be run.
    """
    with chosen_precision(batch.images.device), running_others(training=federation.training):
        return trained_update(federation.training, model, batch, generator=generator)


def sent_update(
    federation: Federation,
    obfuscation: Obfuscation,
    model: Module,
    batch: Batch,
    own: Update,
    *,
    generator: Generator,
) -> Update:
    """Return a client's update as the server receives it: obfuscated, or as it is if it is not sound.

    Args:
        federation: The federation.
        obfuscation: What changes each update on its way to the server.
        model: The model before the round.
        batch: What the client trained on.
        own: What it computed.
        generator: Source of the obfuscation's randomness.

    Raises:
        UsageError: The obfuscation cannot be applied.
    """
    if not is_sound(own.tensors.values()):
        return own
    with chosen_precision(batch.images.device), running_others(training=federation.training, obfuscation=obfuscation):
        bound = for_client(obfuscation, model, batch, federation.training)
        return obfuscated(own, bound, generator=generator, training=federation.training)


def is_sound(tensors: Iterable[Shaped[Tensor, " ..."]]) -> bool:
    """Return whether no value is NaN or larger than `LARGEST`."""
    return all(bool((tensor.abs() <= LARGEST).all()) for tensor in tensors)


def sources_of(seed: int, client: int) -> tuple[Generator, Generator]:
    """Return a client's generators before the first round, of its local training and of its obfuscation."""
    words = np.random.SeedSequence([seed, client]).generate_state(2, np.uint64)
    return Generator().manual_seed(int(words[0])), Generator().manual_seed(int(words[1]))
