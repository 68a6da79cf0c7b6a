"""Least squares for one of the two factors of a matrix, each of whose entries has a weight from the obfuscation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.protocols import EntryModel
from unveil.core.types import Block

COLUMNS = 4096  # columns that stand for all where a misfit is only compared
CHUNK = 1024  # columns that are worked on at a time: what is made of them stays in the processor's cache
READ = 1 << 20  # entries that are worked on at a time where errors are read
ENTRIES = 1 << 20  # entries that are squared in float64 at a time
MANY = 32  # in larger batches all columns share one covariance, because one for each column needs too much memory


def solve(
    errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"], ridge: float
) -> Float[Tensor, "n features"]:
    """Solve ``gradient = errors^T A`` for A by least squares.

    Args:
        errors: The errors, one row for each image.
        gradient: The gradient of the weight.
        ridge: Ridge of the solve, in units of the mean eigenvalue of ``errors errors^T``.
    """
    solution: Tensor = torch.linalg.solve(ridged(errors @ errors.T, ridge), errors @ gradient)
    return solution


@dataclass(frozen=True, eq=False)
class Solution:
    """The solution of a weighted least-squares problem, column by column.

    Args:
        values: The solution X.
        grams: The matrix ``known weights known^T`` of each column's normal equations; their mean if n exceeds `MANY`.
        misfit: Weighted mean of the squared errors, in the squared unit of Y.
        residual: Share of the weighted energy of Y that the solution does not explain.
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
    """Solve ``known^T X = Y`` for X by least squares, where each entry of Y is a target with a weight.

    Args:
        known: The matrix on the left.
        guess: The expected X; a column of Y whose weights are all 0 keeps its expected solution.
        entry_model: Returns target and weight of some columns of Y, given their expected values ``known^T guess``.
        ridge: Ridge of the solve, in units of the mean eigenvalue of each column's equations.
        chunk: Columns that are worked on at a time.
    """
    n, size = guess.shape
    upper = torch.triu_indices(n, n, device=known.device)
    shared = n > MANY
    places = torch.empty((n, n), dtype=torch.long, device=known.device)
    places[upper[0], upper[1]] = places[upper[1], upper[0]] = torch.arange(upper.shape[1], device=known.device)
    places = places.flatten()
    least = 1e-6 * known.square().mean() * known.shape[1] * torch.eye(n, dtype=known.dtype, device=known.device)
    # The matrix M_f = sum_o w_of k_o k_o^T is linear in the weights, so one product (pairs x rows) serves all columns.
    products = None if shared else pairwise(known)
    values = torch.empty_like(guess)
    grams = known.new_zeros((1 if shared else size, n, n))
    left = energy = weights = 0.0
    for start in range(0, size, chunk):
        part = slice(start, min(start + chunk, size))
        expected = known.T @ guess[:, part]
        target, weight = entry_model(expected, (slice(None), part))
        if products is None:  # one step towards the weighted solution, with the mean weights over the columns
            gram = (known * weight.mean(1)) @ known.T
            grams += (gram * (part.stop - part.start) / size)[None]
            step = torch.linalg.solve(ridged(gram, ridge), known @ (weight * (target - expected)))
            values[:, part] = guess[:, part] + step
        else:
            gram = (products @ weight).T[:, places].reshape(-1, n, n)
            grams[part] = gram
            # The solve gives the step from the guess, so a column of which nothing was sent keeps its guess.
            right = known @ (weight * (target - expected))
            step = solved(ridged(gram, ridge) + least, right.T).T
            values[:, part] = guess[:, part] + step
        off = known.T @ values[:, part] - target
        left += inner(weight * off, off)
        energy += inner(weight * target, target)
        weights += float(weight.sum())
    return Solution(values, grams, left / max(weights, 1e-300), left / max(energy, 1e-300))


def pairwise(known: Float[Tensor, "n rows"]) -> Float[Tensor, "pairs rows"]:
    """Return the product of each row with itself and with each later one, in the order of `torch.triu_indices`."""
    n = len(known)
    products = known.new_empty((n * (n + 1) // 2, known.shape[1]))
    for row, part in enumerate(torch.split(products, list(range(n, 0, -1)))):
        torch.mul(known[row], known[row:], out=part)
    return products


def solved(grams: Float[Tensor, "columns n n"], right: Float[Tensor, "columns n"]) -> Float[Tensor, "columns n"]:
    """Solve ``gram x = right`` for each column, by Cholesky's factors if rounding left all matrices positive."""
    factors, failed = torch.linalg.cholesky_ex(grams)
    if bool(failed.any()):
        found: Tensor = torch.linalg.solve(grams, right[..., None])[..., 0]
        return found
    return torch.cholesky_solve(right[..., None], factors)[..., 0]


def inner(a: Float[Tensor, "rows columns"], b: Float[Tensor, "rows columns"]) -> float:
    """Return the sum of the products of two matrices' entries, in one pass without a third matrix."""
    return float(torch.dot(a.flatten(), b.flatten()))


def energy_of(matrix: Float[Tensor, "rows columns"]) -> float:
    """Return the sum of the squares of a matrix, in float64, some rows at a time: no second matrix of its size."""
    rows = max(1, ENTRIES // max(matrix.shape[1], 1))
    return sum(float(some.double().square().sum()) for some in torch.split(matrix, rows))


def gram_of(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows rows"]:
    """Return ``matrix matrix^T`` in float64, some columns at a time: no second matrix of its size."""
    gram = matrix.new_zeros((len(matrix), len(matrix)), dtype=torch.float64)
    for some in torch.split(matrix, CHUNK, dim=1):
        columns = some.double()
        gram.addmm_(columns, columns.T)
    return gram


def explained(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"]) -> float:
    """Return the energy of a gradient that the best features explain with these errors.

    Args:
        errors: The errors, one row for each image.
        gradient: The gradient of the weight.

    Returns:
        A sum of squares, in the squared unit of the gradient.
    """
    correlations = errors @ gradient
    inverse = torch.linalg.inv(ridged(errors @ errors.T, 1e-6).double())
    return float((inverse * (correlations @ correlations.T)).sum())


def weighted_misfit(
    errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"], entry_model: EntryModel
) -> float:
    """Return how badly the best features near a guess explain the update with these errors, on some of the columns.

    Args:
        errors: The errors, one row for each image.
        guess: The expected features, one row for each image; at most `COLUMNS` of its columns are used.
        entry_model: The entry model of the received gradient.

    Returns:
        The weighted mean of the squared errors, in the squared unit of the gradient.
    """
    stride = -(-guess.shape[1] // COLUMNS)

    def of_some(
        expected: Float[Tensor, "rows columns"], block: Block
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
        columns = block[1]
        return entry_model(expected, (block[0], slice(columns.start * stride, columns.stop * stride, stride)))

    some = guess[:, : guess.shape[1] // stride * stride : stride]
    return solve_weighted(errors, some, of_some, ridge=1e-6, chunk=CHUNK).misfit


def ridged(gram: Float[Tensor, "*columns n n"], ridge: float) -> Float[Tensor, "*columns n n"]:
    """Add a ridge to each matrix's diagonal, in units of its mean eigenvalue; a matrix of zeros gets one too."""
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # Solves with smaller numbers than the smallest normal one give NaN.
    return gram + (ridge * mean).clamp_min(torch.finfo(gram.dtype).tiny)[..., None, None] * eye
