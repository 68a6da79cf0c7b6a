"""Regularisers: penalties by which an attack prefers some pictures to others, whatever the update says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Total variation: ``weight * (mean |horizontal difference| + mean |vertical difference|)`` of neighbouring pixels.

    Args:
        weight: At least 0; 0 switches the penalty off.

    Reference:
        Rudin, Osher and Fatemi, Nonlinear Total Variation Based Noise Removal Algorithms, Physica D 1992.
    """

    weight: float

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """Return the penalty of a batch."""
        across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
        down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
        return self.weight * (across + down)


@dataclass(frozen=True, kw_only=True)
class ColourVariation:
    """Colour total variation: ``weight * sum over pixels of |slope of (light, chroma * two colour differences)|``.

    The three channels have their edges at the same places, so one root is taken over all of them. Colour changes less
    from pixel to pixel than light does, so a slope of colour costs more. For pictures without three channels the
    channels count equally; for one channel this is isotropic total variation.

    Args:
        weight: In nats for a slope of one pixel value a pixel, at least 0; 0 switches the penalty off. The penalty is
            the negative logarithm of a density, and is added to the update's negative log-likelihood.
        chroma: Ratio of the cost of a slope of colour to that of an equal slope of light.
        softness: Number added under the root, in squared pixel values. Slopes below its root, about 0.003, cost in
            proportion to their square, so flat regions converge.

    Reference:
        Blomgren and Chan, Color TV: Total Variation Methods for Restoration of Vector-Valued Images, IEEE Transactions
        on Image Processing 1998 (one root for all channels).
    """

    weight: float
    chroma: float = 5.0
    softness: float = 1e-5

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """Return the penalty of a batch."""
        if images.shape[1] == 3:
            root = images.new_tensor([3.0, 2.0, 6.0]).sqrt()[:, None]
            axes = images.new_tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]) / root
            axes = axes * images.new_tensor([1.0, self.chroma, self.chroma])[:, None]
            images = torch.einsum("kc,nchw->nkhw", axes, images)
        across = images[..., :-1, 1:] - images[..., :-1, :-1]
        down = images[..., 1:, :-1] - images[..., :-1, :-1]
        return self.weight * ((across.square() + down.square()).sum(1) + self.softness).sqrt().sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class NearRestored:
    """Distance from restored pictures: ``weight / 2 * sum over pixels of |x - pictures|^2 / expected^2``.

    With weight 1 and independent errors this would be the negative logarithm of the density of the true picture, given
    the restored one. But the errors of neighbouring pixels are correlated, and the restorer started from pictures that
    the update had shaped. A smaller weight therefore keeps the same evidence from counting twice.

    Args:
        weight: At least 0.
        pictures: The restored pictures, in [0, 1].
        expected: The error that the restorer expects in each pixel, in pixel values; more than 0.

    Reference:
        Alternating between likelihood and denoiser: Venkatakrishnan, Bouman and Wohlberg, Plug-and-Play Priors for
        Model Based Reconstruction, GlobalSIP 2013. A precision for each pixel, the denoiser's own expectation: ours.
    """

    weight: float
    pictures: Images
    expected: Float[Tensor, "n 1 h w"]

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """Return the penalty of a batch."""
        return 0.5 * self.weight * ((images - self.pictures) / self.expected).square().sum()
