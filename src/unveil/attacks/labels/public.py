"""Public pictures: synthetic pictures that need no data set, on which an attacker runs the public model."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.types import Images

MANY, FEW = 72, 36  # number of pictures: MANY if one has at most LARGE pixels, else FEW
LARGE = 64 * 64  # pixels


@cache
def public_pictures(image_shape: tuple[int, int, int]) -> Images:
    """Draw the public pictures: two thirds dead leaves, one sixth noise, one sixth flat colours.

    The leaves have many contrasts and exposures. Pictures of a single kind would all agree in properties in which real
    pictures differ. Every call returns the same pictures.

    Args:
        image_shape: (channels, height, width).

    Returns:
        72 pictures, or 36 if one has more than 64 x 64 pixels; values in [0, 1].
    """
    generator = Generator().manual_seed(0)

    def uniform(*shape: int) -> Float[Tensor, "*shape"]:
        return torch.rand(shape, generator=generator)

    channels, height, width = image_shape
    sixth = (MANY if height * width <= LARGE else FEW) // 6
    leaves = dead_leaves(4 * sixth, image_shape, generator=generator)
    contrast, exposure = 0.2 + 1.3 * uniform(4 * sixth, 1, 1, 1), uniform(4 * sixth, 1, 1, 1)
    leaves = (leaves - 0.5) * contrast + exposure
    flat = uniform(sixth, channels, 1, 1) + 0.1 * torch.randn((sixth, *image_shape), generator=generator)
    return torch.cat([leaves, uniform(sixth, *image_shape), flat]).clamp(0, 1)
