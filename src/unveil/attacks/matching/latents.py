"""What an attack searches: pixels, or a smaller code that is decoded to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from unveil.core.types import Images


@runtime_checkable
class Latent(Protocol):
    """A parametrisation of a batch of pictures."""

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Tensor:
        """A random start for n pictures."""
        ...

    def decode(self, z: Tensor, image_shape: tuple[int, int, int]) -> Images:
        """The pictures a code stands for."""
        ...

    def project(self, z: Tensor) -> None:
        """Bring a code back to where it is allowed to be, in place, after each step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Search the pixels themselves.

    Args:
        start: `normal` or `uniform` random numbers, or `grey`: 0.5 with a little noise.
        box: Hold the pixels in [0, 1] after each step.
    """

    start: Literal["normal", "uniform", "grey"] = "uniform"
    box: bool = False

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Tensor:
        """Random pixels."""
        if self.start == "uniform":
            return torch.rand((n, *image_shape), generator=generator, device=generator.device)
        z = torch.randn((n, *image_shape), generator=generator, device=generator.device)
        return z if self.start == "normal" else 0.5 + 0.05 * z

    def decode(self, z: Tensor, image_shape: tuple[int, int, int]) -> Images:
        """The code is the picture."""
        return z

    def project(self, z: Tensor) -> None:
        """Clamp to [0, 1] where boxed."""
        if self.box:
            z.clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class Code:
    """Search a smaller picture; bicubic interpolation brings it to full size.

    Args:
        factor: How much smaller, at least 1; the code has ceil(side / factor) pixels a side.

    Reference:
        Yue et al., Gradient Obfuscation Gives a False Sense of Security in Federated Learning, USENIX Security 2023.
    """

    factor: float

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Tensor:
        """Uniform random numbers in [0, 1)."""
        c, h, w = image_shape
        size = (n, c, int(-(-h // self.factor)), int(-(-w // self.factor)))
        return torch.rand(size, generator=generator, device=generator.device)

    def decode(self, z: Tensor, image_shape: tuple[int, int, int]) -> Images:
        """Interpolate to full size."""
        return F.interpolate(z, size=image_shape[1:], mode="bicubic", align_corners=False)

    def project(self, z: Tensor) -> None:
        """Anywhere is allowed."""


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Search a picture as the sum of itself at several sizes: coarse to fine in every step.

    Adam moves each number by about the same. One number of a coarse level moves a whole region, so that light and
    colour of regions settle in a few steps while single pixels still wander; in plain pixels both take equally long.

    Args:
        shrink: How much smaller each level is a side; 1 is the picture's own size.
    """

    shrink: tuple[int, ...] = (1, 2, 4, 8)

    def init(self, n: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Tensor:
        """Zeros: a pyramid is what is added to a first guess."""
        return torch.zeros((n, sum(c * h * w for c, h, w in self._sizes(image_shape))), device=generator.device)

    def decode(self, z: Tensor, image_shape: tuple[int, int, int]) -> Images:
        """Interpolate every level to full size and add them up."""
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

    def project(self, z: Tensor) -> None:
        """Anywhere is allowed."""

    def _sizes(self, image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
        c, h, w = image_shape
        return [(c, -(-h // s), -(-w // s)) for s in self.shrink]
