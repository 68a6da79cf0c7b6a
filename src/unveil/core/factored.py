"""Gradients of Linear layers as the product of two thin matrices.

The gradient of a Linear layer's weight is ``D^T A``: the errors ``D`` (rows x out) that come back to its output, times
the features ``A`` (rows x in) that went into it. With 16 images and a layer of 65,536 x 512 the factors hold a million
numbers, the product 34 million. `Factored` keeps the factors. What an attack needs of the product (its inner product
with what was received, its norm, a penalty on every entry) is computed without ever building it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 1 << 20  # entries worked on at a time: 4 MiB of float32, which stays in the processor's cache
WORTH_IT = 1 << 20  # a weight smaller than this is cheaper, and more exact, as a plain matrix


@dataclass(frozen=True)
class Factored:
    """The matrix ``sum_k scale_k * left_k^T right_k``, never built.

    Args:
        terms: One ``(scale, left, right)`` a backward pass: left is rows x out, right is rows x in, scale a number
            or a 0-dimensional tensor.
    """

    terms: tuple[tuple[float | Tensor, Tensor, Tensor], ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of the product: (out, in)."""
        _, left, right = self.terms[0]
        return torch.Size((left.shape[1], right.shape[1]))

    def __mul__(self, factor: float | Tensor) -> Factored:
        """Scale the matrix."""
        return Factored(tuple((scale * factor, left, right) for scale, left, right in self.terms))

    def __add__(self, other: Factored) -> Factored:
        """Add another matrix; terms that share their factors are merged, so that momentum does not pile them up."""
        merged = {(id(left), id(right)): (scale, left, right) for scale, left, right in self.terms}
        for scale, left, right in other.terms:
            key = (id(left), id(right))
            merged[key] = (merged[key][0] + scale if key in merged else scale, left, right)
        return Factored(tuple(merged.values()))

    def factors(self) -> tuple[Float[Tensor, "rows out"], Float[Tensor, "rows in"]]:
        """The two thin matrices of the whole sum, scales folded into the left one."""
        return torch.cat([scale * left for scale, left, _ in self.terms]), torch.cat([r for *_, r in self.terms])

    def times(self, features: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """``features @ self^T``: what this matrix would add to a Linear layer's output."""
        left, right = self.factors()
        return (features @ right.T) @ left

    def dense(self) -> Float[Tensor, "out in"]:
        """Build the matrix."""
        left, right = self.factors()
        return left.T @ right


Candidate = Mapping[str, Tensor | Factored]
"""What simulated local training would have sent, keyed by parameter name; large Linear weights stay thin."""


def dense(value: Tensor | Factored) -> Tensor:
    """The plain tensor, built if it was thin."""
    return value.dense() if isinstance(value, Factored) else value


def detached(value: Tensor | Factored, kind: torch.dtype) -> Tensor | Factored:
    """The same numbers in another type, without their history."""
    if isinstance(value, Tensor):
        return value.detach().to(kind)
    return Factored(
        tuple((scale, left.detach().to(kind), right.detach().to(kind)) for scale, left, right in value.terms)
    )


def scaled(candidate: Candidate, factor: float | Tensor) -> Candidate:
    """Every tensor of the candidate times the factor."""
    return {name: value * factor for name, value in candidate.items()}


def inner(value: Tensor | Factored, received: Tensor) -> Float[Tensor, ""]:
    """``<value, received>``: one pass over what was received, no large temporary."""
    if isinstance(value, Tensor):
        return (value * received).sum()
    left, right = value.factors()
    return ((left @ received) * right).sum()


def square_norm(value: Tensor | Factored) -> Float[Tensor, ""]:
    """``||value||^2``, for thin matrices from the two Gram matrices ``L L^T`` and ``R R^T``."""
    if isinstance(value, Tensor):
        return value.square().sum()
    left, right = value.factors()
    return ((left @ left.T) * (right @ right.T)).sum()


def square_distance(value: Tensor | Factored, received: Tensor, received_square_norm: Tensor) -> Float[Tensor, ""]:
    """``||value - received||^2``; the norm of what was received never changes, so the caller computes it once."""
    if isinstance(value, Tensor):
        return (value - received).square().sum()
    return square_norm(value) - 2 * inner(value, received) + received_square_norm


Penalty = Callable[..., Tensor]
"""``penalty(x, y, *per_entry)``: a penalty for each entry x of a candidate, given the received y. Elementwise."""


def entrywise(penalty: Penalty, value: Tensor | Factored, received: Tensor, *per_entry: Tensor) -> Float[Tensor, ""]:
    """``sum_ij penalty(value_ij, received_ij, *per_entry_ij)``, for thin matrices a few rows at a time.

    Args:
        penalty: Elementwise, differentiable in its first argument.
        value: The candidate's tensor.
        received: What was received, of the same shape.
        per_entry: More tensors of that shape which the penalty needs, such as a quantiser's step.
    """
    if isinstance(value, Tensor):
        return penalty(value, received, *per_entry).sum()
    left, right = value.factors()
    total: Tensor = _ThinEntrywise.apply(left, right, penalty, received, *per_entry)
    return total


class _ThinEntrywise(torch.autograd.Function):
    """Value and slopes in one pass over the rows: nothing after a misfit asks for its second derivative."""

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, penalty: Penalty, received: Tensor, *per_entry: Tensor
    ) -> Tensor:
        out, inside = left.shape[1], right.shape[1]
        rows = max(1, CHUNK // inside)
        left_slope, right_slope = torch.zeros_like(left), torch.zeros_like(right)
        total = torch.zeros((), dtype=torch.float64, device=left.device)
        for start in range(0, out, rows):
            part = slice(start, min(start + rows, out))
            with torch.enable_grad():
                entries = (left[:, part].T @ right).requires_grad_()
                value = penalty(entries, received[part], *(extra[part] for extra in per_entry)).sum()
            (slope,) = torch.autograd.grad(value, entries)
            total += value.detach()
            left_slope[:, part] = right @ slope.T
            right_slope.addmm_(left[:, part], slope)
        ctx.save_for_backward(left_slope, right_slope)
        return total.to(left.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        left_slope, right_slope = ctx.saved_tensors
        extras = (None,) * (len(ctx.needs_input_grad) - 2)
        return (grads[0] * left_slope, grads[0] * right_slope, *extras)
