"""The variables that an attack searches: the pixels, or a code that is decoded to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.types import Images


@runtime_checkable
class Latent(Protocol):
    """A code for a batch of pictures."""

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Float[Tensor, " n *code"]:
        """Return the code at which the search starts.

        Args:
            n: Number of pictures.
            image_shape: (channels, height, width) of a picture.
            generator: Randomness of the code; the code is returned on its device.
        """
        ...

    def decode(self, z: Float[Tensor, " n *code"], image_shape: tuple[int, int, int]) -> Images:
        """Return the pictures that a code stands for; differentiable.

        Args:
            z: The code.
            image_shape: (channels, height, width) of a picture.
        """
        ...

    def project(self, z: Float[Tensor, " n *code"]) -> None:
        """Move a code back into the range that is allowed, in place; called after each step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Search the pixels themselves.

    Args:
        start: Distribution of the first pixels: `normal` with mean 0 and standard deviation 1, `uniform` in [0, 1), or
            `grey`, which is normal with mean 0.5 and standard deviation 0.05.
        box: Whether the pixels are clamped to [0, 1] after each step.
    """

    start: Literal["normal", "uniform", "grey"] = "uniform"
    box: bool = False

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Float[Tensor, "n c h w"]:
        """Draw random pixels; see `Latent`."""
        if self.start == "uniform":
            return torch.rand((n, *image_shape), generator=generator, device=generator.device)
        z = torch.randn((n, *image_shape), generator=generator, device=generator.device)
        return z if self.start == "normal" else 0.5 + 0.05 * z

    def decode(self, z: Float[Tensor, "n c h w"], image_shape: tuple[int, int, int]) -> Images:
        """Return the code itself, which is the pictures."""
        return z

    def project(self, z: Float[Tensor, "n c h w"]) -> None:
        """Clamp the pixels to [0, 1], in place, if `box` is set."""
        if self.box:
            z.clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class Code:
    """Search smaller pictures, which bicubic interpolation enlarges to full size.

    Args:
        factor: Ratio of the picture's side to the code's, at least 1; the code has ceil(side / factor) pixels a side.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023.
    """

    factor: float

    def init(
        self, n: int, image_shape: tuple[int, int, int], *, generator: Generator
    ) -> Float[Tensor, "n c code_h code_w"]:
        """Draw a code from the uniform distribution in [0, 1); see `Latent`."""
        c, h, w = image_shape
        size = (n, c, int(-(-h // self.factor)), int(-(-w // self.factor)))
        return torch.rand(size, generator=generator, device=generator.device)

    def decode(self, z: Float[Tensor, "n c code_h code_w"], image_shape: tuple[int, int, int]) -> Images:
        """Interpolate the code to full size; see `Latent`."""
        return F.interpolate(z, size=image_shape[1:], mode="bicubic", align_corners=False)

    def project(self, z: Float[Tensor, "n c code_h code_w"]) -> None:
        """Leave the code as it is, because every code is allowed."""


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Search pictures as sums of levels of several sizes, from the full size to a coarse one.

    Adam changes every number of a code by about the same amount. One number of a coarse level changes a whole region,
    so the light and the colour of regions settle in a few steps. If the pixels themselves are searched, regions take as
    many steps as details.

    Args:
        shrink: Ratio of the picture's side to the level's, for each level; 1 is the full size.
    """

    shrink: tuple[int, ...] = (1, 2, 4, 8)

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Float[Tensor, "n entries"]:
        """Return zeros, one row for each picture, because the decoded pyramid is added to a first guess."""
        return torch.zeros((n, sum(c * h * w for c, h, w in self._sizes(image_shape))), device=generator.device)

    def decode(self, z: Float[Tensor, "n entries"], image_shape: tuple[int, int, int]) -> Images:
        """Interpolate every level to full size and add the levels; see `Latent`."""
        sizes = self._sizes(image_shape)
        levels = torch.split(z, [c * h * w for c, h, w in sizes], dim=1)
        full = image_shape[1:]
        total = torch.zeros((), device=z.device)
        for level, size in zip(levels, sizes, strict=True):
            part = level.reshape(-1, *size)
            if size[1:] != full:
                part = F.interpolate(part, size=full, mode="bilinear", align_corners=False)
            total = total + part
        return total

    def project(self, z: Float[Tensor, "n entries"]) -> None:
        """Leave the code as it is, because every code is allowed."""

    def _sizes(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
        """Return (channels, height, width) of each level."""
        c, h, w = image_shape
        return [(c, -(-h // s), -(-w // s)) for s in self.shrink]
