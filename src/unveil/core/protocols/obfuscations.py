"""What changes an update on its way to the server, and what can be inferred from its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.protocols.trainings import LocalTraining
from unveil.core.types import Block, Family
from unveil.core.update import Update

Misfit = Callable[[Candidate], Float[Tensor, ""]]
"""(candidate) -> how badly it explains the received update; the expected value is lowest for the true update."""


@runtime_checkable
class Obfuscation(Protocol):
    """A change of the update on its way to the server, and what can be inferred from its output."""

    @property
    def family(self) -> Family:
        """The family that it belongs to, one of ROG's or a word of its own."""
        ...

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Obfuscate an update.

        Args:
            update: The update, which does not change.
            generator: Source of all randomness; it draws on the processor, so move what is drawn to the tensors.

        Returns:
            A new update with the same names, shapes and types.
        """
        ...

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Prepare the observation model of a received update.

        Args:
            received: An output of this obfuscation.
            sent_only: Consider only the entries that were sent (`Update.sent`), because an earlier stage chose them.

        Returns:
            A function that judges candidates; it is called in every iteration of an attack.
        """
        ...


EntryModel = Callable[
    [Float[Tensor, "rows columns"], Block], tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]
]
"""``(expected, block) -> (target, weight)`` for one block of one matrix of the update.

Given the values that an attacker expects of the entries, it returns the values that the received update suggests, and
weights from 0 to 1. ``weight * (x - target)^2`` approximates the misfit near the expected values.
"""


@runtime_checkable
class HasEntryModels(Protocol):
    """An obfuscation after which some entries are more certain than others; without this, all are equally certain."""

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Return an entry model for each matrix of the received update, by name."""
        ...


@runtime_checkable
class MayRescale(Protocol):
    """An obfuscation that may multiply an update by a factor that its output does not reveal."""

    @property
    def scale_unknown(self) -> bool:
        """Whether it may do so with these settings."""
        ...


@runtime_checkable
class NeedsClient(Protocol):
    """An obfuscation that depends on the client's model and batch, and so can obfuscate nothing without them."""

    def for_client(self, model: Module, batch: Batch, training: LocalTraining) -> Obfuscation:
        """Return the obfuscation that a client applies to its update; only the client calls this.

        Args:
            model: The model before local training.
            batch: The client's private batch.
            training: The client's local training.

        Raises:
            UsageError: The obfuscation cannot be applied to this model.
        """
        ...

    def for_receiver(self, received: Update) -> Obfuscation:
        """Return an obfuscation that changes other updates as this one seems to have changed a received update.

        Attacks rehearse with it. It depends on nothing but the received update.

        Args:
            received: An output of this obfuscation, or of a pipeline with this stage.
        """
        ...
