"""What the clients of a cohort send where each obfuscates its own update, and the mean of it that the server sees."""

from __future__ import annotations

from typing import Literal

from torch import Generator
from torch.nn import Module

from unveil.clients.cohort import CohortTraining, parts_of
from unveil.clients.sending import obfuscated, refuse_zeros, trained_update
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.means import mean_of_messages
from unveil.core.protocols import LocalTraining, Obfuscation
from unveil.core.update import Update

CohortObfuscates = Literal["mean", "each"]
"""What is obfuscated of a cohort: the mean of its clients' updates, once, or each client's update before the mean."""

BY_EACH = (
    "Each client obfuscates its own update, with draws of its own, before the mean. The attacker knows how large an "
    "error this leaves in the mean, as if every client said so of its own update: of noise and rounding the variance, "
    "of top-k the largest magnitude that is not sent."
)
"""What an attacker is assumed to know where each client obfuscates its own update."""


def mean_of_each(
    training: LocalTraining,
    model: Module,
    batch: Batch,
    clients: int,
    obfuscation: Obfuscation,
    *,
    for_training: Generator,
    for_obfuscation: Generator,
) -> Update:
    """Return the mean of what the clients send, weighted by their numbers of pictures, with what each sent.

    Each client's update is obfuscated with draws of its own.

    Args:
        training: The local training of the cohort; see `of_cohort`.
        model: The model before local training.
        batch: The pictures of all clients, one client's after the other's.
        clients: Number of clients.
        obfuscation: The obfuscation of each update.
        for_training: Source of the clients' noise and of the network's random draws, for one client after the other.
        for_obfuscation: The same for the obfuscation.

    Raises:
        UnattackableError: All updates are zeros.
    """
    own = training.training if isinstance(training, CohortTraining) else training
    parts = list(parts_of(batch, clients))
    trained = [trained_update(own, model, part, generator=for_training) for part in parts]
    refuse_zeros(trained)
    sent = [
        obfuscated(update, for_client(obfuscation, model, part, own), generator=for_obfuscation, training=own)
        for update, part in zip(trained, parts, strict=True)
    ]
    return mean_of_messages(sent, [len(part) / len(batch) for part in parts])
