"""Hints: how much an update says about each picture, which an enhancer gets beside the pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.reconstruction import FeatureFit

HINTS = 3  # numbers for each picture
LEAST = 1e-3  # smaller noise and misses are raised to this, in units of the features' standard deviation


def hints_of(evidence: FeatureFit | None, count: int) -> Float[Tensor, "count 3"]:
    """Return three numbers for each picture: log10 of the noise, log10 of the miss, and 1 to say that both are known.

    Args:
        evidence: The attack's evidence, whose `noise` and `miss` are used; None gives zeros for all three numbers.
        count: Number of pictures.
    """
    if evidence is None:
        return torch.zeros((count, HINTS))
    noise, miss = (value.float().clamp(LEAST, 10).log10() for value in (evidence.noise, evidence.miss))
    return torch.stack([noise, miss, torch.ones_like(noise)], 1)
