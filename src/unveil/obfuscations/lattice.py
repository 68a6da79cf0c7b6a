"""The distance of a quantiser's levels, worked out from the values that were received alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.obfuscations.numerics import wide


def step_of_norm(rows: Float[Tensor, "groups entries"], top: int) -> Float[Tensor, "groups 1"]:
    """The step of each group that was rounded to multiples of ``L2 norm / top``, for updates that come without it.

    All magnitudes are multiples of the step. Euclid's algorithm on the whole group finds their greatest common divisor,
    which is the step or a multiple of it; of the multiples, the one is taken for which the levels' norm is nearest to
    `top`. Where the values are multiples of nothing (noise was added), the norm itself is used.

    Args:
        rows: What was received. Zeros are multiples of everything.
        top: The largest level, the quantiser's number of levels minus 1.

    Returns:
        The step of each group; 0 where the group is all zeros.
    """
    size = wide(rows.abs())
    largest = size.amax(1, True)
    noise = 8 * torch.finfo(rows.dtype).eps * largest  # multiples are off by their rounding to the tensor's type
    divisor = _smallest(size, noise)
    for _ in range(64):  # each round at least halves the divisor of a group that is not done
        rest = (size - (size / divisor).round() * divisor).abs()
        rest = torch.where(divisor < torch.inf, rest, 0.0)
        smaller = _smallest(rest, noise)
        if not bool((smaller < torch.inf).any()):
            break
        divisor = torch.minimum(divisor, smaller)
    levels = (size / divisor).norm(dim=1, keepdim=True)
    step = divisor / (top / levels.clamp_min(1)).round().clamp_min(1)
    guess = size.norm(dim=1, keepdim=True) / top
    step = torch.where((step > 4 * noise) & step.isfinite(), step, guess)
    return torch.where(largest > 0, step, 0.0)


def _smallest(size: Tensor, noise: Tensor) -> Tensor:
    """The smallest entry of each group that is not zero within the noise; infinity where there is none."""
    return torch.where(size > noise, size, torch.inf).amin(1, True)
