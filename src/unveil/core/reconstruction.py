"""A reconstruction: the pictures of an attack, how firmly the update holds them, and why the attack ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from jaxtyping import Float, Int
from torch import Tensor

from unveil.core.types import Images


class Stop(Enum):
    """Why an attack ended; the value is what results hold, `sentence` what the user reads."""

    FINISHED = "finished"
    STALLED = "stalled"
    EMPTY = "empty"
    DIVERGED = "diverged"

    @property
    def sentence(self) -> str:
        """The same for a reader."""
        return {
            Stop.FINISHED: "finished: every planned step was taken",
            Stop.STALLED: "stalled: the loss no longer changed, so the remaining steps were not taken",
            Stop.EMPTY: "nothing to match: the received update is all zeros, so the pictures are the blind guess, "
            "mid-grey",
            Stop.DIVERGED: "diverged: the loss became NaN or infinite; the best images before that were kept",
        }[self]


@dataclass(frozen=True, kw_only=True)
class FeatureFit:
    """How firmly the update holds each picture, told from the update alone; sizes in units of the features' spread.

    Args:
        noise: Standard deviation of the errors of the features that the update gives: the obfuscation's strength as it
            arrives at this picture. 0 is exact, at 1 the update says next to nothing.
        miss: Root mean squared distance of the rebuilt picture's features from those.
        chi_squared: (images) -> for each, the mean squared distance of its features from those that the update gives,
            in units of the variance of their errors: about 1 for the truth, more for what the update speaks against.
            Differentiable. None where it cannot be asked.
    """

    noise: Float[Tensor, " n"]
    miss: Float[Tensor, " n"]
    chi_squared: Callable[[Images], Float[Tensor, " n"]] | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What an attack rebuilt, in its own order.

    Args:
        images: The rebuilt pictures, in [0, 1].
        labels: The label the attack believed each picture to have.
        losses: The attack's own loss after each step.
        stop: Why the attack ended.
        notes: What else a reader must know of this run, a sentence each.
        confidence: How sure the attack is of each picture, to rank them; None where it does not say.
        evidence: How firmly the update holds each picture; None where the batch was not separated.
    """

    images: Images
    labels: Int[Tensor, " n"]
    losses: Sequence[float]
    stop: Stop = Stop.FINISHED
    notes: tuple[str, ...] = ()
    confidence: Float[Tensor, " n"] | None = None
    evidence: FeatureFit | None = None
