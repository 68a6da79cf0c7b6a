"""Eigenvalues of symmetric matrices, also of those at which LAPACK gives up in single precision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LinAlgError: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
"""What torch raises where an algorithm of linear algebra finds no answer."""


class Spectrum(NamedTuple):
    """Eigenvalues in ascending order, and the eigenvectors, which are columns."""

    values: Float[Tensor, "*batch n"]
    vectors: Float[Tensor, "*batch n n"]


def eigh(matrix: Float[Tensor, "*batch n n"]) -> Spectrum:
    """Return the eigenvalues and eigenvectors of symmetric matrices.

    LAPACK's divide and conquer sometimes does not converge in float32 where many eigenvalues are equal, such as the
    zeros of an update of which little was sent. Then they are computed in float64.

    Args:
        matrix: The matrices.

    Raises:
        LinAlgError: They hold NaN or infinite values, or do not converge in float64 either.
    """
    try:
        return Spectrum(*torch.linalg.eigh(matrix))
    except LinAlgError:
        values, vectors = torch.linalg.eigh(matrix.double())
        return Spectrum(values.to(matrix), vectors.to(matrix))
