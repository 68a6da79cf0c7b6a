"""What an attack assumes of pictures before it has seen the update."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unveil.core import Images


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """``weight * (mean |horizontal difference| + mean |vertical difference|)``: neighbouring pixels are alike.

    Args:
        weight: At least 0; 0 switches it off.

    Reference:
        Rudin, Osher and Fatemi, Nonlinear Total Variation Based Noise Removal Algorithms, Physica D 1992.
    """

    weight: float

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """The penalty of a batch."""
        across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
        down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        return self.weight * (across + down)
