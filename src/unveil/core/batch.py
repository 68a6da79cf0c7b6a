"""A batch: the pictures and labels that a client trains on."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.types import Images


@dataclass(frozen=True)
class Batch:
    """The pictures and labels that a client trains on; an attack only ever gets batches that it made itself.

    Args:
        images: The pictures, n x c x h x w in [0, 1].
        labels: A class index for each picture, or (for an attacker's own guess) a row of class probabilities.

    Raises:
        UsageError: The numbers of pictures and labels differ.
    """

    images: Images
    labels: Int[Tensor, " labels"] | Float[Tensor, "labels classes"]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UsageError(
                f"Batch: expected one label a picture, got {len(self.images)} pictures and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)
