"""What an attack assumes of pictures before it has seen the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import Images


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


@dataclass(frozen=True, kw_only=True)
class ColourVariation:
    """``weight * sum over pixels of |slope of (light, chroma * two colour differences)|``.

    Edges of the three channels fall together, so one root is taken over all of them; and colour changes less from pixel
    to pixel than light does, so its slopes cost more. For pictures of one channel this is isotropic total variation.

    Args:
        weight: At least 0; 0 switches it off. A log-density's: it stands beside the update's log-likelihood.
        chroma: How much more a slope of colour costs than one of light.
        softness: Added under the root, in squared pixel values: a slope below its root, about 0.003, counts by its
            square, so that flat regions settle.

    Reference:
        Blomgren and Chan, Color TV: Total Variation Methods for Restoration of Vector-Valued Images, IEEE Transactions
        on Image Processing 1998 (one root for all channels).
    """

    weight: float
    chroma: float = 5.0
    softness: float = 1e-5

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """The penalty of a batch."""
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
    """``weight / 2 * sum over pixels of |x - pictures|^2 / expected^2``: a learned restorer knows about where it lies.

    With weight 1 and independent errors this would be the log-density of the restored picture. Its errors go together
    over many pixels, and it has already used what the update says: a smaller weight counts the evidence once.

    Args:
        weight: At least 0.
        pictures: What the restorer made of the present pictures.
        expected: How far each pixel is probably off there.

    Reference:
        Alternating between likelihood and denoiser: Venkatakrishnan, Bouman and Wohlberg, Plug-and-Play Priors for
        Model Based Reconstruction, GlobalSIP 2013. A precision for each pixel, the denoiser's own expectation: ours.
    """

    weight: float
    pictures: Images
    expected: Float[Tensor, "n 1 h w"]

    def __call__(self, images: Images) -> Float[Tensor, ""]:
        """The penalty of a batch."""
        return 0.5 * self.weight * ((images - self.pictures) / self.expected).square().sum()
