"""The restoration network: told how firmly an update holds each picture, it takes the attack's errors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unveil.core.types import Images
from unveil.enhancers.conditioning import HINTS
from unveil.enhancers.unet import UNet

CODE = 64
SURE, UNSURE = -4.0, -0.5  # decades between which the expected error of a pixel lies


class Restorer(nn.Module):
    """Rough pictures and their hints in; cleaner pictures and how far each pixel is probably off out.

    Adds what it computes to what it was given: untrained, it changes nothing. Nothing is normalised over pixels or
    pictures, so brightness survives and a picture is restored alike whatever stands beside it.

    Args:
        widths: Channels at each scale, the first of 2 x 2 pixels.
        blocks: Residual blocks at each scale, down and up.

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
        """Restored pictures, not clamped, and the expected size of each pixel's error.

        Args:
            images: Colour pictures in [0, 1].
            hints: See `hints_of`.
        """
        out = self.body(images, self.code(hints)).float()
        decades = (SURE + UNSURE) / 2 + (UNSURE - SURE) / 2 * torch.tanh(out[:, 3:])
        return images + out[:, :3], 10**decades
