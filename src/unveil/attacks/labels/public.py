"""Pictures that anybody can make, on which an attacker tries out the public model."""

from __future__ import annotations

from functools import cache

import torch
from torch import Generator, Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.types import Images

MANY, FEW = 72, 36  # pictures, of at most and of more than LARGE pixels
LARGE = 64 * 64


@cache
def public_pictures(image_shape: tuple[int, int, int]) -> Images:
    """Two thirds dead leaves of all contrasts and exposures, the rest noise and flat colours; the same in each call.

    Pictures of one kind would agree in what real pictures differ in.

    Args:
        image_shape: (channels, height, width).
    """
    generator = Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    channels, height, width = image_shape
    some = (MANY if height * width <= LARGE else FEW) // 6
    leaves = dead_leaves(4 * some, image_shape, generator=generator)
    contrast, exposure = 0.2 + 1.3 * uniform(4 * some, 1, 1, 1), uniform(4 * some, 1, 1, 1)
    leaves = (leaves - 0.5) * contrast + exposure
    flat = uniform(some, channels, 1, 1) + 0.1 * torch.randn((some, *image_shape), generator=generator)
    return torch.cat([leaves, uniform(some, *image_shape), flat]).clamp(0, 1)
