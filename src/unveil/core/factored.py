"""Gradients of Linear layers as the product of two thin matrices.

The gradient of a Linear layer's weight is ``D^T A``: the errors ``D`` (rows x out) that come back to its output, times
the features ``A`` (rows x in) that went into it. With 16 images and a layer of 65,536 x 512 the factors have a million
entries, the product 34 million. `Factored` keeps the factors. The functions here compute what an attack needs of the
product (its inner product with the received matrix, its norm, a penalty on every entry) without building the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

CHUNK = 1 << 20  # entries of the product that are computed at a time: 4 MiB of float32, which fits a processor's cache
WORTH_IT = 1 << 20  # entries; a weight with fewer is cheaper, and more exact, as a plain matrix

Term = tuple[float | Float[Tensor, ""], Float[Tensor, "_ out"], Float[Tensor, "_ in"]]
"""``(scale, left, right)``, which stands for ``scale * left^T right``; both factors have the same number of rows."""


@dataclass(frozen=True)
class Factored:
    """The matrix ``sum_k scale_k * left_k^T right_k``, never built.

    Args:
        terms: One ``(scale, left, right)`` for each backward pass: left is rows x out, right is rows x in, scale is a
            number or a 0-dimensional tensor.
    """

    terms: tuple[Term, ...]

    @property
    def shape(self) -> torch.Size:
        """The shape of the product, (out, in)."""
        _, left, right = self.terms[0]
        return torch.Size((left.shape[1], right.shape[1]))

    def __mul__(self, factor: float | Float[Tensor, ""]) -> Factored:
        """Multiply the matrix by a number."""
        return Factored(tuple((scale * factor, left, right) for scale, left, right in self.terms))

    def __add__(self, other: Factored) -> Factored:
        """Add another matrix of the same shape.

        Terms with the same factors are merged. Without that, their number would grow as the square of the steps that
        local training takes with momentum.
        """
        merged = {(id(left), id(right)): (scale, left, right) for scale, left, right in self.terms}
        for scale, left, right in other.terms:
            key = (id(left), id(right))
            merged[key] = (merged[key][0] + scale if key in merged else scale, left, right)
        return Factored(tuple(merged.values()))

    def factors(self) -> tuple[Float[Tensor, "rows out"], Float[Tensor, "rows in"]]:
        """Return two thin matrices whose product ``left^T right`` is the whole sum; the left one has the scales."""
        return torch.cat([scale * left for scale, left, _ in self.terms]), torch.cat([r for *_, r in self.terms])

    def times(self, features: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Return ``features @ self^T``: the output of a Linear layer that has this matrix as its weight."""
        left, right = self.factors()
        return (features @ right.T) @ left

    def dense(self) -> Float[Tensor, "out in"]:
        """Return the product as a plain matrix."""
        left, right = self.factors()
        return left.T @ right


Candidate = Mapping[str, Float[Tensor, " ..."] | Factored]
"""The update that simulated local training gives, by parameter name; large Linear weights are factored."""


def dense(value: Float[Tensor, "*shape"] | Factored) -> Float[Tensor, "*shape"]:
    """Return the plain tensor; a factored matrix is multiplied out."""
    return value.dense() if isinstance(value, Factored) else value


def detached(value: Float[Tensor, "*shape"] | Factored, kind: torch.dtype) -> Float[Tensor, "*shape"] | Factored:
    """Return the same values in the type `kind`, detached from the autograd graph."""
    if isinstance(value, Tensor):
        return value.detach().to(kind)
    return Factored(
        tuple((scale, left.detach().to(kind), right.detach().to(kind)) for scale, left, right in value.terms)
    )


def scaled(candidate: Candidate, factor: float | Float[Tensor, ""]) -> Candidate:
    """Multiply every tensor of the candidate by the factor."""
    return {name: value * factor for name, value in candidate.items()}


def added(updates: Sequence[Candidate]) -> Candidate:
    """Return the sum of updates with the same names; matrices that are factored in all of them stay so."""
    first, *others = updates
    total = dict(first)
    for other in others:
        total = {name: _sum(value, other[name]) for name, value in total.items()}
    return total


def _sum(
    one: Float[Tensor, "*shape"] | Factored, other: Float[Tensor, "*shape"] | Factored
) -> Float[Tensor, "*shape"] | Factored:
    if isinstance(one, Factored) and isinstance(other, Factored):
        return one + other
    return dense(one) + dense(other)


def inner(value: Float[Tensor, "*shape"] | Factored, received: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the inner product ``<value, received>``; a factored matrix is not multiplied out for it."""
    if isinstance(value, Tensor):
        return (value * received).sum()
    left, right = value.factors()
    return ((left @ received) * right).sum()


def square_norm(value: Float[Tensor, " ..."] | Factored) -> Float[Tensor, ""]:
    """Return ``||value||^2``; for a factored matrix it is computed from the Gram matrices ``L L^T`` and ``R R^T``."""
    if isinstance(value, Tensor):
        return value.square().sum()
    left, right = value.factors()
    return ((left @ left.T) * (right @ right.T)).sum()


def square_distance(
    value: Float[Tensor, "*shape"] | Factored,
    received: Float[Tensor, "*shape"],
    received_square_norm: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return ``||value - received||^2``.

    Args:
        value: The candidate's tensor.
        received: The received tensor.
        received_square_norm: ``||received||^2``, which the caller computes once because it does not change.
    """
    if isinstance(value, Tensor):
        return (value - received).square().sum()
    return square_norm(value) - 2 * inner(value, received) + received_square_norm


Penalty = Callable[..., Float[Tensor, "*shape"]]
"""``penalty(x, y, *per_entry)``: a penalty for each entry x of a candidate, given the received y. Elementwise."""


def entrywise(
    penalty: Penalty,
    value: Float[Tensor, "*shape"] | Factored,
    received: Float[Tensor, "*shape"],
    *per_entry: Shaped[Tensor, "*shape"],
) -> Float[Tensor, ""]:
    """Return ``sum_ij penalty(value_ij, received_ij, *per_entry_ij)``; a factored matrix is built a few rows at a time.

    Args:
        penalty: Elementwise, differentiable in its first argument.
        value: The candidate's tensor.
        received: The received tensor.
        per_entry: More tensors that the penalty needs, such as a quantiser's step for each entry.
    """
    if isinstance(value, Tensor):
        return penalty(value, received, *per_entry).sum()
    left, right = value.factors()
    total: Tensor = _ThinEntrywise.apply(left, right, penalty, received, *per_entry)
    return total


class _ThinEntrywise(torch.autograd.Function):
    """Computes the sum of penalties and its slopes in one pass over the rows; it has no second derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Float[Tensor, "rows out"],
        right: Float[Tensor, "rows in"],
        penalty: Penalty,
        received: Float[Tensor, "out in"],
        *per_entry: Shaped[Tensor, "out in"],
    ) -> Float[Tensor, ""]:
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
    def backward(ctx: Any, *grads: Float[Tensor, ""]) -> tuple[Float[Tensor, "rows _"] | None, ...]:
        left_slope, right_slope = ctx.saved_tensors
        extras = (None,) * (len(ctx.needs_input_grad) - 2)
        return (grads[0] * left_slope, grads[0] * right_slope, *extras)
