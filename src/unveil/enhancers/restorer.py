"""The restorer: a network that removes an attack's errors, given how much the update says about each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unveil.core.types import Images
from unveil.enhancers.conditioning import HINTS
from unveil.enhancers.unet import UNet

CODE = 64  # length of the code that scales and shifts the blocks
SURE, UNSURE = -4.0, -0.5  # log10 of the smallest and the largest expected error of a pixel, for pictures in [0, 1]


class Restorer(nn.Module):
    """Computes cleaner pictures, and the expected error of each pixel, from rough pictures and their hints.

    The network computes a correction that is added to the rough pictures; untrained, the correction is 0. Nothing is
    normalised over pixels or pictures, so the pictures keep their brightness, and the result for a picture does not
    depend on the others in the batch.

    Args:
        widths: Channels at each scale; at the first, a place has 2 x 2 pixels.
        blocks: Residual blocks at each scale, both down and up.

    Reference:
        The residual: Zhang et al., Beyond a Gaussian Denoiser, TIP 2017. The expected error beside the mean: Kendall
        and Gal, What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?, NeurIPS 2017.
    """

    kind: ClassVar[str] = "restorer"

    def __init__(self, *, widths: Sequence[int] = (32, 64, 128), blocks: int = 2) -> None:
        super().__init__()
        self.settings = {"widths": list(widths), "blocks": blocks}
        self.code = nn.Sequential(nn.Linear(HINTS, CODE), nn.SiLU(), nn.Linear(CODE, CODE), nn.SiLU())
        self.body = UNet(shrink=2, widths=tuple(widths), blocks=blocks, code=CODE, outputs=4, normalised=False)

    def forward(
        self, images: Images, hints: Float[Tensor, "n hints"]
    ) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
        """Restore pictures.

        Args:
            images: Colour pictures in [0, 1].
            hints: What is known of each picture; see `hints_of`.

        Returns:
            Restored pictures, not clamped, and the expected root mean squared error of each pixel over its colours.
        """
        out = self.body(images, self.code(hints)).float()
        decades = (SURE + UNSURE) / 2 + (UNSURE - SURE) / 2 * torch.tanh(out[:, 3:])
        return images + out[:, :3], 10**decades
