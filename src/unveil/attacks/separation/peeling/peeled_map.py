"""The maps that a walk through a network found."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.peeling.solving import relative
from unveil.attacks.separation.peeling.watch import Map

FINE = 1e-2  # deviation relative to a map's spread below which a picture hardly gains


@dataclass(frozen=True, kw_only=True, eq=False)
class InputMap:
    """The input of a convolution, found for every image.

    Args:
        before: Name of the weight of the convolution.
        padded: Zeros that the network adds left, right, above and below before it is read.
        values: The map, one for each image, float64.
        deviation: Standard deviation of the error at each place, n x 1 x height x width; None if the map is exact.
        covariance: Covariance of the errors between the places of all images, first image first, the same for all
            channels; None if only `deviation` is known.
    """

    before: str
    padded: tuple[int, int, int, int]
    values: Map
    deviation: Map | None
    covariance: Float[Tensor, "places places"] | None = None

    @property
    def unsure(self) -> float:
        """Deviation of an entry relative to the spread of the map; 0 if the map is exact."""
        return 0.0 if self.deviation is None else relative(self.deviation, self.values)

    @property
    def says(self) -> float:
        """How much the map says of the pictures, in nats: its size times the logarithm of spread over deviation.

        Deviations below `FINE` count as that. Of exact maps a deeper one says as much, whatever its size.
        """
        return -self.values.numel() * math.log(max(self.unsure, FINE)) if self.unsure else math.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class PeeledMap:
    """The deepest map that counts, on which alone the network's output depends, and maps between the pictures and it.

    Args:
        deepest: The map.
        off: Difference of the received gradients behind it from those that it gives, relative to their length.
        expected: Name of the weight of the convolution whose input the walk was expected to find, from the network's
            shapes alone.
        inner: Maps that the network computes on the way to it.
        reason: Why the walk ended here.
    """

    deepest: InputMap
    off: float
    expected: str
    inner: tuple[InputMap, ...] = ()
    reason: str = ""

    def beside(self, other: InputMap) -> PeeledMap:
        """Return the same with another map on the way to the deepest one."""
        return replace(self, inner=(*self.inner, other))
