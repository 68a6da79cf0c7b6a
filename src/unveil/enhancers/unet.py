"""The body that both learned priors share: a small U-Net whose blocks are scaled and shifted by a code."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unveil.core.types import Images


class UNet(nn.Module):
    """Pictures and a code in, as many maps as asked for out, at the pictures' size.

    Works on `shrink` x `shrink` pixels at a time, at as many scales as there are widths. The last layer starts at zero.

    Args:
        shrink: Pixels a side that are one place of the first map.
        widths: Channels at each scale.
        blocks: Residual blocks at each scale, on the way down and on the way up.
        code: Length of the code.
        outputs: Maps that come out.
        normalised: Take mean and spread out of each map before the code gives it others, so that the code is not one
            voice among many; brightness then survives only in what is added to the output.

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
        """Any height and width: the edges are repeated up to what the scales need, and cut off again.

        Args:
            images: The pictures.
            code: What scales and shifts the blocks.
            bottom: Added to the smallest maps, brought to their size.
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
    """Some blocks of one width, one after the other."""

    def __init__(self, width: int, count: int, code: int, normalised: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, code, normalised) for _ in range(count))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """What comes out of the last one."""
        for block in self.blocks:
            x = block(x, code)
        return x


class Block(nn.Module):
    """Two convolutions between which the code scales and shifts, added to what came in."""

    def __init__(self, width: int, code: int, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(code, 2 * width)
        nn.init.zeros_(self.film.bias)
        with torch.no_grad():
            self.film.weight *= 0.1
            self.two.weight *= 0.3  # a deep sum of blocks starts near the identity

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """The block's output, as wide as its input."""
        scale, shift = self.film(code)[:, :, None, None].chunk(2, 1)
        inside = self.one(x)
        if self.normalised:
            inside = F.group_norm(inside, math.gcd(inside.shape[1], 8))
        result: Tensor = x + self.two(F.silu(inside * (1 + scale) + shift))
        return result
