"""Least squares of dense equations, the same on every device."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Driver = Literal["gelsy", "gelsd"]
"""Routine of LAPACK: by a pivoted QR decomposition, or by singular values, which is slower and as good at any rank."""


def least_squares(
    matrix: Float[Tensor, "*batch rows columns"],
    right: Float[Tensor, "*batch rows wanted"],
    *,
    driver: Driver = "gelsy",
) -> Float[Tensor, "*batch columns wanted"]:
    """Return the X of least norm among those for which ``|matrix X - right|`` is least.

    It is solved on the processor. On a card torch has one routine, which takes the rank for full and returns something
    else where it is not.

    Args:
        matrix: One row for each equation.
        right: The right sides, a column for each set of equations.
        driver: The routine.

    Raises:
        LinAlgError: The equations hold NaN or infinite values.
    """
    solution: Tensor = torch.linalg.lstsq(matrix.cpu(), right.cpu(), driver=driver).solution
    return solution.to(matrix.device)
