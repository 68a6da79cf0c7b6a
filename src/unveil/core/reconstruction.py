"""A reconstruction: the pictures of an attack, how well they fit the update, and why the attack ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float, Int
from torch import Tensor

from unveil.core.types import Images


class Stop(Enum):
    """Why an attack ended; results keep the value, and reports show the sentence."""

    FINISHED = "finished"
    STALLED = "stalled"
    EMPTY = "empty"
    DIVERGED = "diverged"

    @property
    def sentence(self) -> str:
        """The reason in a sentence for readers of a report."""
        return {
            Stop.FINISHED: "finished: every planned step was taken",
            Stop.STALLED: "stalled: the loss no longer changed, so the remaining steps were not taken",
            Stop.EMPTY: "nothing to match: the received update is all zeros, so the pictures are the blind guess, "
            "mid-grey",
            Stop.DIVERGED: "diverged: the loss became NaN or infinite; the best images before that were kept",
        }[self]


@dataclass(frozen=True, kw_only=True)
class FeatureFit:
    """How much the update says about the features of each picture, and how well the reconstruction fits them.

    All of it is computed from the update, without the private batch. `noise` and `miss` are in units of the features'
    standard deviation.

    Args:
        noise: Standard deviation of the errors that the obfuscation causes in the features that the update gives. At 0
            the features are exact; at 1 the update says almost nothing about the picture.
        miss: Root mean squared difference between the features of the rebuilt picture and those that the update gives.
        chi_squared: (images) -> for each picture, the mean squared difference between its features and those that the
            update gives, divided by the variance of their errors: about 1 for the true picture, more for pictures that
            contradict the update. Differentiable. None if it is not available.
    """

    noise: Float[Tensor, " n"]
    miss: Float[Tensor, " n"]
    chi_squared: Callable[[Images], Float[Tensor, " n"]] | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The result of an attack; its pictures are in the attack's own order.

    Args:
        images: The rebuilt pictures, in [0, 1].
        labels: The label that the attack assigned to each picture.
        losses: The attack's own loss after each step.
        stop: Why the attack ended.
        notes: What else a reader must know of this run, a sentence each.
        confidence: A score by which the attack ranks its pictures, higher for better ones; it has no unit. None if the
            attack gives none.
        evidence: How much the update says about each picture; None if the attack did not separate the batch.
    """

    images: Images
    labels: Int[Tensor, " n"]
    losses: Sequence[float]
    stop: Stop = Stop.FINISHED
    notes: tuple[str, ...] = ()
    confidence: Float[Tensor, " n"] | None = None
    evidence: FeatureFit | None = None
