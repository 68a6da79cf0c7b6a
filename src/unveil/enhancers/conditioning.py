"""What an enhancer is told of each picture beside its pixels: how firmly the update held it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import FeatureFit

HINTS = 3
LEAST = 1e-3  # noise and misses below are as good as none


def hints_of(evidence: FeatureFit | None, count: int) -> Float[Tensor, "count 3"]:
    """Log noise, log miss, and a one where they are known; zeros where the attack did not separate the batch.

    The noise is the obfuscation's strength as it arrives at a picture, the miss the attack's own certainty.

    Args:
        evidence: The attack's.
        count: How many pictures there are.
    """
    if evidence is None:
        return torch.zeros((count, HINTS))
    noise, miss = (value.float().clamp(LEAST, 10).log10() for value in (evidence.noise, evidence.miss))
    return torch.stack([noise, miss, torch.ones_like(noise)], 1)
