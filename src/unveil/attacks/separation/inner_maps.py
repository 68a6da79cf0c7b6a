"""Maps that a body computes on the way to its features, known besides these up to correlated errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images

Map = Float[Tensor, "n _ _ _"]
MOST = 5000  # places of a batch up to which errors count as correlated between them: their matrix is inverted


@runtime_checkable
class ComputesInnerMaps(Protocol):
    """A body that gives some of its maps beside its features."""

    def features_and_inner(
        self, images: Images, *, rough: bool = False
    ) -> tuple[Float[Tensor, "n features"], list[Map]]:
        """Compute the features of pictures and the inner maps; differentiable.

        Args:
            images: The pictures, n x c x h x w in [0, 1].
            rough: Whether three digits are enough.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class InnerEstimate:
    """A map on the way to the features, with the covariance of its errors, which is the same for all channels.

    Args:
        values: The map.
        covariance: Covariance of the errors between the places of all images, first image first, or their variances
            alone.
    """

    values: Map
    covariance: Float[Tensor, "places places"] | Float[Tensor, " places"]

    def misfit(self, floor: float) -> Callable[[Map], Float[Tensor, ""]]:
        """Return the function that gives half the squared distance of a map, in units of the errors.

        Args:
            floor: Standard deviation of an independent error that each entry has besides, relative to the spread of
                the map.
        """
        least = floor**2 * float(self.values.var())
        target = _rows(self.values)
        if self.covariance.dim() == 1:
            return _Misfit(target, 1 / (self.covariance + least))
        eye = torch.eye(len(self.covariance), dtype=target.dtype, device=target.device)
        factor = torch.linalg.cholesky(self.covariance + least * eye)
        return _Misfit(target, torch.cholesky_inverse(factor))


@dataclass(frozen=True, eq=False)
class _Misfit:
    target: Float[Tensor, "channels places"]
    precision: Float[Tensor, "places places"] | Float[Tensor, " places"]

    def __call__(self, found: Map) -> Float[Tensor, ""]:
        off = _rows(found) - self.target
        with torch.no_grad():  # the slope, precision times off, is computed once and not differentiated
            weighted = off * self.precision if self.precision.dim() == 1 else off @ self.precision
            rest = 0.5 * (off * weighted).sum()
        return (off * weighted).sum() - rest


def _rows(values: Map) -> Float[Tensor, "channels places"]:
    """Return the channels as rows, with the places of all images in each."""
    return values.transpose(0, 1).flatten(1)
