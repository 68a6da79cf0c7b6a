"""What the decoder and the search need of the part of a network between the pictures and their features."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images


@runtime_checkable
class Body(Protocol):
    """The part of a network that computes features, which are the entries of a map."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's pictures."""
        ...

    @property
    def feature_map(self) -> tuple[int, int, int]:
        """(channels, height, width) of the map."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        ...

    def features(self, images: Images, *, rough: bool = False) -> Float[Tensor, "n features"]:
        """Compute the flattened features of pictures in [0, 1]; differentiable.

        Args:
            images: The pictures, n x c x h x w.
            rough: Whether three digits are enough.
        """
        ...

    def as_maps(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n c h w"]:
        """Return flattened features as maps."""
        ...

    def without_draws(self) -> Body:
        """Return the same body with the mean of every random draw."""
        ...
