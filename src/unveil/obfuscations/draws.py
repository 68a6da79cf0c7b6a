"""Random numbers of a tensor's shape, from an explicit generator; in float32 or float64 whatever the tensor's type.

Half precision has so few values that a uniform number is often exactly 0 or 1 there, and a fraction is rounded by more
than what is drawn for.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def uniform_like(values: Float[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape"]:
    """Uniform numbers in [0, 1) of the same shape, drawn on the generator's device."""
    numbers = torch.rand(values.shape, generator=generator, dtype=_drawn(values), device=generator.device)
    return numbers.to(values.device)


def normal_like(values: Float[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape"]:
    """Standard normal numbers of the same shape, drawn on the generator's device."""
    numbers = torch.randn(values.shape, generator=generator, dtype=_drawn(values), device=generator.device)
    return numbers.to(values.device)


def laplace_like(values: Float[Tensor, "*shape"], generator: Generator) -> Float[Tensor, "*shape"]:
    """Laplace numbers of standard deviation 1 and of the same shape, drawn on the generator's device.

    The inverse distribution at a uniform number of 53 bits: one of 24 bits hits the endpoint, whose logarithm is no
    sample, twice in 34 million draws. Held at 2^-53 from the endpoint, the largest magnitude is 26.
    """
    centred = torch.rand(values.shape, generator=generator, dtype=torch.float64, device=generator.device).sub_(0.5)
    tail = centred.abs().mul_(-2).add_(1).clamp_(min=2**-53)
    numbers = tail.log_().mul_(-1 / math.sqrt(2)).copysign_(centred)
    return numbers.to(values.device, _drawn(values))


def _drawn(values: Float[Tensor, "*shape"]) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32
