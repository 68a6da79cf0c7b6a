"""A small U-Net, the body of both learned priors; a code scales and shifts the maps of its blocks."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unveil.core.types import Images


class UNet(nn.Module):
    """Computes `outputs` maps of the pictures' size from pictures and a code.

    The first map has one place for each `shrink` x `shrink` pixels; each further scale has half the height and width.
    The last layer's weights start at zero, and so does the output.

    Args:
        shrink: Height and width in pixels of one place of the first map.
        widths: Channels at each scale.
        blocks: Residual blocks at each scale, both down and up.
        code: Length of the code.
        outputs: Number of maps in the output.
        normalised: Normalise groups of maps to mean 0 and variance 1 before the code scales and shifts them, so that
            the code decides both. The maps then do not keep the pictures' brightness.

    Reference:
        Ronneberger, Fischer and Brox, U-Net, MICCAI 2015; scaling and shifting by a code: Perez et al., FiLM, AAAI
        2018; after a normalisation: Dumoulin, Shlens and Kudlur, A Learned Representation for Artistic Style, ICLR
        2017.
    """

    def __init__(
        self, *, shrink: int, widths: tuple[int, ...], blocks: int, code: int, outputs: int, normalised: bool
    ) -> None:
        super().__init__()
        scales = list(pairwise(widths))
        self.shrink = shrink
        self.multiple = shrink * 2 ** len(scales)
        self.first = nn.Conv2d(3 * shrink**2, widths[0], 3, padding=1)
        self.before = nn.ModuleList(Blocks(narrow, blocks, code, normalised) for narrow, _ in scales)
        self.down = nn.ModuleList(nn.Conv2d(narrow, wide, 2, stride=2) for narrow, wide in scales)
        self.bottom = Blocks(widths[-1], blocks, code, normalised)
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in reversed(scales))
        self.after = nn.ModuleList(Blocks(narrow, blocks, code, normalised) for narrow, _ in reversed(scales))
        self.last = nn.Conv2d(widths[0], outputs * shrink**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(
        self, images: Images, code: Float[Tensor, "n code"], bottom: Float[Tensor, "n widest a b"] | None = None
    ) -> Float[Tensor, "n outputs h w"]:
        """Compute the output maps; the pictures are padded to a size that the scales need, and the output is cropped.

        Args:
            images: The pictures, in colour, of any height and width.
            code: The code of each picture.
            bottom: Maps that are resized and added to the smallest maps; None for nothing.
        """
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        x = self.first(F.pixel_unshuffle(padded - 0.5, self.shrink).contiguous(memory_format=torch.channels_last))
        kept = []
        for blocks, smaller in zip(self.before, self.down, strict=True):
            x = blocks(x, code)
            kept.append(x)
            x = smaller(x)
        if bottom is not None:
            x = x + F.interpolate(bottom, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = self.bottom(x, code)
        for larger, blocks in zip(self.up, self.after, strict=True):
            x = blocks(larger(x) + kept.pop(), code)
        return F.pixel_shuffle(self.last(x), self.shrink)[..., :height, :width]


class Blocks(nn.Module):
    """Several blocks of one width in sequence."""

    def __init__(self, width: int, count: int, code: int, normalised: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, code, normalised) for _ in range(count))

    def forward(
        self, x: Float[Tensor, "n channels a b"], code: Float[Tensor, "n code"]
    ) -> Float[Tensor, "n channels a b"]:
        """Compute the output of the last block."""
        for block in self.blocks:
            x = block(x, code)
        return x


class Block(nn.Module):
    """A residual block: two convolutions, between which the code scales and shifts each map."""

    def __init__(self, width: int, code: int, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(code, 2 * width)
        nn.init.zeros_(self.film.bias)
        with torch.no_grad():
            self.film.weight *= 0.1
            self.two.weight *= 0.3  # so that a sequence of many blocks starts near the identity

    def forward(
        self, x: Float[Tensor, "n channels a b"], code: Float[Tensor, "n code"]
    ) -> Float[Tensor, "n channels a b"]:
        """Compute the block's output, which has as many channels as its input."""
        scale, shift = self.film(code)[:, :, None, None].chunk(2, 1)
        inside = self.one(x)
        if self.normalised:
            inside = F.group_norm(inside, math.gcd(inside.shape[1], 8))
        result: Tensor = x + self.two(F.silu(inside * (1 + scale) + shift))
        return result
