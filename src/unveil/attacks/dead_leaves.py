"""Dead leaves: synthetic pictures with the statistics of photographs, drawn from a seed alone.

Ellipses of all sizes that cover one another have the edges, the flat regions and the scale invariance of natural
pictures. So an attacker needs no data set to know what pictures look like.

Reference:
    Lee, Mumford and Huang, Occlusion Models for Natural Images, IJCV 2001.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.types import Images

LEAVES = 100  # ellipses a picture
SMALLEST = 1.5  # radius of the smallest ellipse, in pixels; an eighth of the longer side if that is less
CHROMA = 0.12  # standard deviation of a colour channel about the leaf's grey, in pixel values
SHADE = 0.3  # standard deviation of the change of a leaf's light along the longer side, in pixel values
TEXTURE = 0.015  # standard deviation of the fine grain, in pixel values


def dead_leaves(count: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Images:
    """Draw pictures of overlapping ellipses.

    Args:
        count: Number of pictures n.
        image_shape: (channels, height, width).
        generator: Randomness of the pictures; they are returned on its device.

    Returns:
        The pictures, n x channels x height x width, float32 in [0, 1].

    Reference:
        Lee, Mumford and Huang, Occlusion Models for Natural Images, IJCV 2001.
    """
    channels, height, width = image_shape
    side = max(height, width)
    low, high = min(SMALLEST, side / 8), side / 2

    def uniform(*shape: int) -> Float[Tensor, "*shape"]:
        return torch.rand(shape, generator=generator, device=generator.device)

    def normal(*shape: int) -> Float[Tensor, "*shape"]:
        return torch.randn(shape, generator=generator, device=generator.device)

    many = (count, LEAVES)
    radius = (low**-2 - uniform(*many) * (low**-2 - high**-2)) ** -0.5  # density r^-3 makes all scales look alike
    stretch, turn = 0.5 + uniform(*many), torch.pi * uniform(*many)
    middle = uniform(*many, 2) * torch.tensor([height, width], device=generator.device)
    colour = uniform(*many, 1) + CHROMA * normal(*many, channels) * (channels > 1)
    slope = SHADE * normal(*many, 2) / side
    # Each leaf is drawn by itself, in NumPy: on boxes of few pixels a call of NumPy takes less time than one of torch.
    drawn = [t.tolist() for t in (radius, stretch, turn)] + [t.cpu().numpy() for t in (middle, colour, slope)]
    pictures = np.full((count, height, width, channels), 0.5, np.float32)
    for picture, *leaves in zip(pictures, *drawn, strict=True):
        for leaf in zip(*leaves, strict=True):
            _cover(picture, *leaf)
    canvas = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(generator.device)
    return (canvas + TEXTURE * normal(count, channels, height, width)).clamp(0, 1)


def _cover(picture: Any, radius: float, stretch: float, turn: float, middle: Any, colour: Any, slope: Any) -> None:
    """Draw one ellipse on top of a picture, in place.

    Args:
        picture: Pixel values, height x width x channels.
        radius: Geometric mean of the two half axes, in pixels.
        stretch: Ratio of the first half axis to the radius; the second is the radius divided by it.
        turn: Angle from the x axis to the first half axis, in radians.
        middle: (y, x) of the centre, in pixels.
        colour: Value of each colour channel at the centre, in pixel values.
        slope: Change of all channels along y and along x, in pixel values a pixel.
    """
    height, width, _ = picture.shape
    y, x = float(middle[0]), float(middle[1])
    reach = radius * max(stretch, 1 / stretch) + 1
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, height)
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, width)
    dy = np.arange(top - y, bottom - y, dtype=np.float32)[: bottom - top, None]
    dx = np.arange(left - x, right - x, dtype=np.float32)[None, : right - left]
    cos, sin = math.cos(turn), math.sin(turn)
    inside = ((dx * cos + dy * sin) / stretch) ** 2 + ((dy * cos - dx * sin) * stretch) ** 2 < radius * radius
    shade = slope[0] * dy + slope[1] * dx
    picture[top:bottom, left:right][inside] = (shade[..., None] + colour)[inside]
