"""The picture whose patches explain the gradient of a patch embedding, given the errors of its tokens.

The gradient is ``G = D^T X`` with the errors D (tokens x width) and the patches X (tokens x entries). Directions of D
above the noise fix X by least squares; in the others the picture of smallest total variation is taken. Both at once
are a convex problem, which the primal-dual method of Chambolle and Pock (2011) solves: the step for the least squares
is exact, because the singular value decomposition of D is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unveil.core.types import Images

FLOAT32 = 1e-6  # singular values of D below this share of the largest are rounding errors
STEP = 0.006  # of the picture, in pixel values; about the ratio of a pixel's range to the weight of the total variation


@dataclass(frozen=True, eq=False)
class TokenEquations:
    """Equations ``gradient = errors^T patches`` for the patches of one picture, in double precision.

    Args:
        errors: D, tokens x width.
        gradient: G, width x entries.
        pixels: The index in the flattened picture of each entry of each patch.
        image_shape: (channels, height, width) of the picture.
    """

    errors: Float[Tensor, "tokens width"]
    gradient: Float[Tensor, "width entries"]
    pixels: Int[Tensor, "tokens entries"]
    image_shape: tuple[int, int, int]

    @property
    def conditioning(self) -> tuple[int, float]:
        """The rank of the errors in float32, and the ratio of their largest singular value to the last one counted."""
        values = torch.linalg.svdvals(self.errors)
        rank = int((values > FLOAT32 * values[0]).sum())
        return rank, float(values[0] / values[rank - 1])

    def picture(self, start: Images, *, noise: float, smoothness: float, steps: int) -> Images:
        """Return the most probable picture, with values that may lie outside [0, 1].

        Minimises ``|G - D^T X|^2 / (2 s^2) + smoothness * total variation``.

        Args:
            start: The picture, 1 x c x h x w, at which the search starts.
            noise: The standard deviation s, relative to the root mean square of G; more than 0.
            smoothness: Nats for a slope of one pixel value a pixel, more than 0.
            steps: Steps of the primal-dual method, at least 1.
        """
        left, values, right = torch.linalg.svd(self.errors, full_matrices=False)
        variance = (noise**2 * self.gradient.square().mean()).clamp_min(torch.finfo(torch.float64).tiny)
        held = STEP * values.square() / (variance + STEP * values.square())
        keep = torch.eye(len(left)).to(left) - (left * held) @ left.T
        pull = (left * (STEP * values / (variance + STEP * values.square()))) @ (right @ self.gradient)
        keep, pull = keep.to(start), pull.to(start)
        at = self.pixels.flatten()
        picture, dual = start[0].clone(), torch.zeros(2, *self.image_shape).to(start)
        for _ in range(steps):
            moved = picture - STEP * _slopes_transposed(dual)
            flat = moved.flatten()
            flat[at] = (keep @ flat[at].reshape(self.pixels.shape) + pull).flatten()
            moved = flat.reshape(self.image_shape)
            dual = dual + _slopes(2 * moved - picture) / (8 * STEP)
            dual = dual / (dual.square().sum((0, 1)).sqrt() / smoothness).clamp_min(1)
            picture = moved
        return picture[None]


def _slopes(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "2 c h w"]:
    """Return the differences between each pixel and the one below and right of it; 0 at the edge."""
    down = F.pad(picture[:, 1:] - picture[:, :-1], (0, 0, 0, 1))
    return torch.stack([down, F.pad(picture[:, :, 1:] - picture[:, :, :-1], (0, 1))])


def _slopes_transposed(dual: Float[Tensor, "2 c h w"]) -> Float[Tensor, "c h w"]:
    """Apply the transpose of `_slopes`."""
    down, right = dual[0, :, :-1], dual[1, :, :, :-1]
    return F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1)) + F.pad(right, (1, 0)) - F.pad(right, (0, 1))
