"""What a client sends: its update, obfuscated, with the buffers that its local training changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Generator
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.errors import UnattackableError
from unveil.core.protocols import LocalTraining, Obfuscation, SendsBuffers
from unveil.core.update import BufferChanges, Update


def trained_update(training: LocalTraining, model: Module, batch: Batch, *, generator: Generator) -> Update:
    """Return what a client computes, before any obfuscation: the tensors, and the buffers if it sends them.

    Args:
        training: The client's local training.
        model: The model before local training.
        batch: The client's batch.
        generator: Source of the client's noise and of the network's random draws.
    """
    if not isinstance(training, SendsBuffers) or training.buffers == "kept":
        return Update(training(model, batch, generator=generator))
    after = training.trained(model, batch, generator=generator)
    changes = BufferChanges(
        statistics=Update({name: t for name, t in after.buffers.items() if t.is_floating_point()}),
        counters={name: t for name, t in after.buffers.items() if not t.is_floating_point()},
    )
    return Update(after.tensors, buffers=changes)


def refuse_zeros(trained: Sequence[Update]) -> None:
    """Raise an `UnattackableError` if what clients computed is all zeros, before any obfuscation."""
    if all(update.is_zero for update in trained):
        raise UnattackableError(
            "the update is all zeros, so there is nothing in it to attack; "
            "check that the client's model is not frozen and that its pictures reach the loss"
        )


def obfuscated(update: Update, obfuscation: Obfuscation, *, generator: Generator, training: LocalTraining) -> Update:
    """Return the update that the server receives.

    Statistics that are obfuscated are an update of their own: a norm or a share over the whole update does not count
    them, and the parameters arrive as they would without them. Counters are sent exactly.

    Args:
        update: What the client computed.
        obfuscation: The obfuscation.
        generator: Source of the obfuscation's randomness.
        training: The client's local training, which says whether buffers are obfuscated.
    """
    received = obfuscation(replace(update, buffers=None), generator=generator)
    changes = update.buffers
    is_obfuscated = isinstance(training, SendsBuffers) and training.buffers == "obfuscated"
    if changes is not None and is_obfuscated and changes.statistics.tensors:
        changes = replace(changes, statistics=obfuscation(changes.statistics, generator=generator))
    return replace(received, buffers=changes)
