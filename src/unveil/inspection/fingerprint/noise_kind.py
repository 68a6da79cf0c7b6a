"""Gaussian or Laplace noise, by what the characteristic function of noisy entries can be at most.

The characteristic function of a sum is the product of those of its parts, and none is larger than 1. So behind
Gaussian noise of standard deviation sigma the mean of cos(s x / sigma) is at most exp(-s^2 / 2), whatever the gradient
is; behind Laplace noise it is up to 1 / (1 + s^2 / 2). Where many entries of the gradient are small beside the noise it
is near that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

FREQUENCIES = (3.0, 3.5, 4.0, 4.5, 5.0)
LOW = 1.5  # the frequency from which the gradient's own characteristic function is judged
UNSURE = 0.05  # relative error of the noise's standard deviation that is allowed for
CERTAIN = 4.5  # standard errors above the bound from which noise is no Gaussian
LEAST = 5_000  # entries
QUIET = 1.3  # standard deviations of the noise, below which a row is nearly noise alone


def quiet(parts: Sequence[tuple[Float[Tensor, "_ _"], float]]) -> list[tuple[Float[Tensor, " _"], float]]:
    """Return the entries of the rows that are nearly noise alone, for each matrix that has some.

    Args:
        parts: Each matrix with the standard deviation of its noise.
    """
    rows = [(matrix[matrix.square().mean(1).sqrt() < QUIET * sigma].flatten(), sigma) for matrix, sigma in parts]
    return [(entries, sigma) for entries, sigma in rows if len(entries)]


def is_laplace(parts: Sequence[tuple[Float[Tensor, " _"], float]]) -> bool | None:
    """Tell Laplace noise from Gaussian noise; None if the entries do not say it.

    Args:
        parts: Entries of a tensor, with the standard deviation of their noise, for each tensor.
    """
    scaled = torch.cat([values / sigma for values, sigma in parts]) if parts else torch.zeros(0)
    if len(scaled) < LEAST:
        return None
    error = math.sqrt(0.5 / len(scaled))
    most = {s: math.exp(-((s * (1 - UNSURE)) ** 2) / 2) + CERTAIN * error for s in FREQUENCIES}
    if any(float(torch.cos(s * scaled).mean()) > most[s] for s in FREQUENCIES):
        return True
    # The gradient's own characteristic function, were the noise Laplace; its tails are long, so it falls off slowly.
    own = max(float(torch.cos(LOW * scaled).mean()) * (1 + LOW**2 / 2), 0.0)
    would_be_seen = any(own ** (s / LOW) / (1 + s**2 / 2) > most[s] for s in FREQUENCIES)
    return False if would_be_seen else None
