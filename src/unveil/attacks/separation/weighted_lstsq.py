"""Least squares for one of two factors of a matrix, every entry with the weight that the obfuscation gives it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.protocols import EntryModel
from unveil.core.types import Block

COLUMNS = 4096  # features weighted at a time
MANY = 32  # batches above this size share one covariance over all features: per-feature ones would not fit


def solve(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"], ridge: float) -> Tensor:
    """Least squares for A in ``gradient = errors^T A``, with a ridge in units of the mean eigenvalue."""
    solution: Tensor = torch.linalg.solve(ridged(errors @ errors.T, ridge), errors @ gradient)
    return solution


@dataclass(frozen=True, eq=False)
class Solution:
    """Weighted least squares for every column of a matrix.

    Args:
        values: The solution.
        grams: The matrix of each column's equations; one for all where there are many unknowns.
        misfit: Mean weighted squared error in units of a weight of 1.
        residual: Share of the weighted energy that is left.
    """

    values: Float[Tensor, "n columns"]
    grams: Float[Tensor, "one_or_columns n n"]
    misfit: float
    residual: float


def solve_weighted(
    known: Float[Tensor, "n rows"],
    guess: Float[Tensor, "n columns"],
    entry_model: EntryModel,
    *,
    ridge: float,
    chunk: int,
) -> Solution:
    """Least squares for X in ``known^T X = Y``, each entry of Y a target with a weight.

    Args:
        known: The matrix on the left.
        guess: What X is expected to be.
        entry_model: Target and weight of some columns of Y, given what is expected there.
        ridge: In units of the mean eigenvalue of each column's equations.
        chunk: Columns worked on at a time.
    """
    n, size = guess.shape
    upper = torch.triu_indices(n, n, device=known.device)
    shared = n > MANY
    # M_f = sum_o w_of k_o k_o^T is linear in the weights: one product for all columns, pairs x rows.
    products = None if shared else known[upper[0]] * known[upper[1]]
    values = torch.empty_like(guess)
    grams = known.new_zeros((1 if shared else size, n, n))
    left = energy = weights = 0.0
    for start in range(0, size, chunk):
        part = slice(start, min(start + chunk, size))
        expected = known.T @ guess[:, part]
        target, weight = entry_model(expected, (slice(None), part))
        if products is None:  # one step towards the weighted solution, with the columns' mean weights
            gram = (known * weight.mean(1)) @ known.T
            grams += (gram * (part.stop - part.start) / size)[None]
            step = torch.linalg.solve(ridged(gram, ridge), known @ (weight * (target - expected)))
            values[:, part] = guess[:, part] + step
        else:
            gram = known.new_empty((part.stop - part.start, n, n))
            gram[:, upper[0], upper[1]] = gram[:, upper[1], upper[0]] = (products @ weight).T
            grams[part] = gram
            # A column of which nothing was sent stays as expected: the step is solved for, not the value.
            right = known @ (weight * (target - expected))
            least = 1e-6 * known.square().mean() * known.shape[1] * torch.eye(n, dtype=known.dtype, device=known.device)
            step = torch.linalg.solve(ridged(gram, ridge) + least, right.T[..., None])[..., 0].T
            values[:, part] = guess[:, part] + step
        off = weight * (known.T @ values[:, part] - target).square()
        left += float(off.sum(dtype=torch.float64))
        energy += float((weight * target.square()).sum(dtype=torch.float64))
        weights += float(weight.sum(dtype=torch.float64))
    return Solution(values, grams, left / max(weights, 1e-300), left / max(energy, 1e-300))


def explained(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"]) -> float:
    """How much of a gradient's energy the best features could explain with these errors."""
    correlations = errors @ gradient
    inverse = torch.linalg.inv(ridged(errors @ errors.T, 1e-6).double())
    return float((inverse * (correlations @ correlations.T)).sum())


def weighted_misfit(
    errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"], entry_model: EntryModel
) -> float:
    """How badly the best features near a guess explain what was sent with these errors, told from some columns."""
    stride = -(-guess.shape[1] // COLUMNS)

    def of_some(expected: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        columns = block[1]
        return entry_model(expected, (block[0], slice(columns.start * stride, columns.stop * stride, stride)))

    some = guess[:, : guess.shape[1] // stride * stride : stride]
    return solve_weighted(errors, some, of_some, ridge=1e-6, chunk=COLUMNS).misfit


def ridged(gram: Float[Tensor, "*columns n n"], ridge: float) -> Tensor:
    """The matrix of equations with a ridge in units of its mean eigenvalue."""
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return gram + ridge * mean[..., None, None] * eye
