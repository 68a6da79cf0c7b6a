"""Clipping of single examples: what a local training says of itself, for statements on differential privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class ExampleClipping:
    """How a local training bounds what one example does to an update, and the noise that it adds.

    Args:
        norm: Largest L2 norm of one example's gradient in the sum of a step.
        multiplier: Standard deviation of the Gaussian noise on that sum over `norm`; 0 for none.
        divisor: What the sum is divided by.
        is_fixed: The divisor is a setting; False if it is the number of examples that are there.
        releases: Number of steps of one update that an example takes part in, at most.
        mini_batches: Whether a step takes only some of the client's examples.
        is_sent: The update is the sum over the divisor itself, without steps that hide it.
    """

    norm: float
    multiplier: float
    divisor: float
    is_fixed: bool
    releases: int
    mini_batches: bool
    is_sent: bool


@runtime_checkable
class ClipsExamples(Protocol):
    """A local training that may clip each example's gradient before it uses it."""

    def clipping(self, pictures: int) -> ExampleClipping | None:
        """Return what bounds an example in one update of this many pictures; None if nothing does."""
        ...
