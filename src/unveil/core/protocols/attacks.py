"""What rebuilds a batch from the model, the received update and the knowledge."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Generator
from torch.nn import Module

from unveil.core.protocols.enhancers import Enhancer
from unveil.core.protocols.knowledge import Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.update import Update
from unveil.core.watch import Watch


@runtime_checkable
class Attack(Protocol):
    """Rebuilds a batch from the public model, the update and the knowledge, without the private batch."""

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the attack.

        Args:
            model: The public model.
            update: The received update.
            knowledge: What the attacker knows.
            generator: Source of all randomness; it draws on the processor, so move what is drawn to the tensors.
            watch: Called after each step; None for no reports.
        """
        ...


@runtime_checkable
class TakesRoughSteps(Protocol):
    """An attack with steps that need only three digits and may be taken in bfloat16; see `arithmetic.py`."""

    @property
    def is_rough(self) -> bool:
        """Whether it takes such steps with these settings."""
        ...


@runtime_checkable
class EstimatesMemory(Protocol):
    """An attack that knows about how much memory it needs."""

    def working_bytes(self, model: Module, knowledge: Knowledge, *, activations: int) -> int:
        """Return the bytes that the attack has at its peak, beside the model and the received update.

        Args:
            model: The public model.
            knowledge: What the attacker knows.
            activations: Bytes that autograd keeps for one pass of the whole batch through the model.
        """
        ...


@runtime_checkable
class UsesLearnedPrior(Protocol):
    """An attack that contains a learned prior, and so knows the pictures on which the prior was trained."""

    @property
    def prior(self) -> Enhancer:
        """The learned prior."""
        ...
