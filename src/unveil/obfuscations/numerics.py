"""Arithmetic that neither overflows nor vanishes: in half precision, with values of 1e20 or 1e-23, of empty tensors."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Num
from torch import Tensor

from unveil.core.factored import Factored, square_norm

HALVES = (torch.float16, torch.bfloat16)
SMALL, LARGE = 1e-15, 1e15
"""Sums of a hundred million squares of float32 neither vanish nor overflow between these magnitudes."""


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same values in a type that holds sums of their squares: float32, or float64 where that is needed."""
    if values.dtype in HALVES:
        values = values.float()
    return values.double() if values.dtype == torch.float32 and is_extreme(values) else values


def is_extreme(values: Float[Tensor, "*shape"]) -> bool:
    """Whether the largest magnitude lies outside `SMALL` to `LARGE`; never for zeros and empty tensors."""
    if not values.numel():
        return False
    low, high = torch.aminmax(values.detach())
    largest = max(-float(low), float(high))
    return largest > 0 and not SMALL <= largest <= LARGE


def narrowed(values: Float[Tensor, "*shape"], dtype: torch.dtype) -> Num[Tensor, "*shape"]:
    """The values as another floating type, held at its largest finite magnitude."""
    if values.dtype == dtype or not dtype.is_floating_point:
        return values.to(dtype)
    largest = torch.finfo(dtype).max
    return (values.clamp(-largest, largest) if torch.finfo(values.dtype).max > largest else values).to(dtype)


def rms(values: Float[Tensor, "*shape"]) -> float:
    """Root mean square; 0 for an empty tensor."""
    return float(wide(values).square().mean().sqrt()) if values.numel() else 0.0


def spread(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Standard deviation about the mean, over all entries; 0 for an empty tensor."""
    return wide(values).std(correction=0) if values.numel() else values.new_zeros(())


def energy(value: Float[Tensor, " ..."] | Factored) -> Float[Tensor, ""]:
    """The squared norm in float64, where squares of all that float32 holds neither vanish nor overflow."""
    if isinstance(value, Factored):
        return square_norm(
            Factored(tuple((scale, left.double(), right.double()) for scale, left, right in value.terms))
        )
    return wide(value).square().sum(dtype=torch.float64)


def as_factor(factor: Float[Tensor, ""], value: Float[Tensor, " ..."] | Factored) -> Float[Tensor, ""]:
    """A float64 factor in a type that does not widen what it is multiplied with."""
    own = value.dtype if isinstance(value, Tensor) else value.terms[0][1].dtype
    return factor if own == torch.float64 else factor.float()


def share_of(density: float, size: int) -> int:
    """``ceil(density size)`` of the decimal number that the user wrote: 0.07 of 100 is 7, not 8."""
    return math.ceil(Fraction(str(density)) * size)
