"""The distance of a quantiser's levels, worked out from the values that were received alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.obfuscations.numerics import wide

FITS = 0.02  # of a step: how far values may be from multiples of it


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
    # No level is above the top one, so the step is not smaller than this; what is left below half of it is rounding.
    least = largest / top
    rounding = torch.maximum(least / 2, 8 * torch.finfo(rows.dtype).eps * largest)
    divisor = _smallest(size, rounding)
    for _ in range(64):  # each round at least halves the divisor of a group that is not done
        rest = _smallest((size - (size / divisor).round() * divisor).abs(), rounding)
        if not bool((rest < divisor).any()):
            break
        divisor = torch.minimum(divisor, rest)
    levels = (size / divisor).round()
    divisor = (size * levels).sum(1, True) / levels.square().sum(1, True).clamp_min(1)
    step = divisor / (top / levels.norm(dim=1, keepdim=True).clamp_min(1)).round().clamp_min(1)
    off = (size - levels * divisor).abs().amax(1, True)
    exact = (off < FITS * divisor) & (rounding < divisor)
    return torch.where(largest > 0, torch.where(exact, step, size.norm(dim=1, keepdim=True) / top), 0.0)


def _smallest(size: Float[Tensor, "groups entries"], rounding: Float[Tensor, "groups 1"]) -> Float[Tensor, "groups 1"]:
    """The smallest entry of each group that is more than rounding; infinity where there is none."""
    return torch.where(size > rounding, size, torch.inf).amin(1, True)
