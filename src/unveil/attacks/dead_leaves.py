"""Dead leaves: synthetic pictures with the statistics of photographs, drawn from nothing but a seed.

Discs of all sizes that cover one another have the edges, the flat regions and the scale invariance of natural pictures.
An attacker needs no data set to know what pictures look like.

Reference:
    Lee, Mumford and Huang, Occlusion Models for Natural Images, IJCV 2001.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from unveil.core.types import Images

LEAVES = 100  # ellipses a picture
SMALLEST = 1.5  # pixels
CHROMA = 0.12  # how far a leaf's colour strays from grey
SHADE = 0.3  # how much a leaf's light changes across the picture
TEXTURE = 0.015  # standard deviation of the fine grain


def dead_leaves(count: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Images:
    """Draw pictures.

    Args:
        count: How many.
        image_shape: (channels, height, width).
        generator: Their randomness.
    """
    channels, height, width = image_shape
    side = max(height, width)
    low, high = min(SMALLEST, side / 8), side / 2

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    many = (count, LEAVES)
    radius = (low**-2 - uniform(*many) * (low**-2 - high**-2)) ** -0.5  # density r^-3: every scale alike
    stretch, turn = 0.5 + uniform(*many), torch.pi * uniform(*many)
    middle = uniform(*many, 2) * torch.tensor([height, width], device=generator.device)
    colour = uniform(*many, 1) + CHROMA * normal(*many, channels) * (channels > 1)
    slope = SHADE * normal(*many, 2) / side
    # Small boxes of pixels by the ten thousand: NumPy's calls cost a fraction of torch's.
    drawn = [t.tolist() for t in (radius, stretch, turn)] + [t.cpu().numpy() for t in (middle, colour, slope)]
    pictures = np.full((count, height, width, channels), 0.5, np.float32)
    for picture, *leaves in zip(pictures, *drawn, strict=True):
        for leaf in zip(*leaves, strict=True):
            _cover(picture, *leaf)
    canvas = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(generator.device)
    return (canvas + TEXTURE * normal(count, channels, height, width)).clamp(0, 1)


def _cover(picture: Any, radius: float, stretch: float, turn: float, middle: Any, colour: Any, slope: Any) -> None:
    """Put one ellipse on top of a picture (height x width x channels), in place."""
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
