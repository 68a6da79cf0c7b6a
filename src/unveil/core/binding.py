"""What replaces an obfuscation that needs the client (`NeedsClient`), at the client and in an attacker's rehearsals."""

from __future__ import annotations

from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.protocols import LocalTraining, NeedsClient, Obfuscation
from unveil.core.update import Update


def for_client(obfuscation: Obfuscation, model: Module, batch: Batch, training: LocalTraining) -> Obfuscation:
    """Return the obfuscation as a client applies it; unchanged unless it needs one.

    Args:
        obfuscation: The obfuscation.
        model: The model before local training.
        batch: The client's private batch.
        training: The client's local training.

    Raises:
        UsageError: The obfuscation cannot be applied to this model.
    """
    return obfuscation.for_client(model, batch, training) if isinstance(obfuscation, NeedsClient) else obfuscation


def for_receiver(obfuscation: Obfuscation, received: Update) -> Obfuscation:
    """Return the obfuscation as an attacker rehearses it; the same one unless it needs the client.

    Args:
        obfuscation: The obfuscation.
        received: What came out of it.
    """
    return obfuscation.for_receiver(received) if isinstance(obfuscation, NeedsClient) else obfuscation
