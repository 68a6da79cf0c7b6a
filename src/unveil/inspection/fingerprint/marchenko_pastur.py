"""The noise behind a matrix of low rank: its smallest singular values are those of a matrix of noise alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.spectra import eigh

ROWS = 24  # rows below which a tail of singular values says nothing
EXACT = 2e-6  # singular values below this share of the largest are rounding
STRAIGHT = 0.03  # how far the ratio to the expected values may vary


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Noise found in a matrix.

    Args:
        sigma: Its standard deviation; 0 for a matrix of low rank without noise.
        entries: How many entries were left of the noise, after what a signal may fill.
        excess: Their excess kurtosis, corrected for the mixing of rows; 0 for Gaussian noise, 3 for Laplace.
        dilution: Factor by which mixing made the excess smaller, from 0 to 1.
    """

    sigma: float
    entries: int = 0
    excess: float = 0.0
    dilution: float = 0.0


def noise_tail(matrix: Float[Tensor, "rows columns"]) -> Tail | None:
    """The noise of a matrix, or None where its singular values do not fall off to those of noise.

    The lowest singular values of rank + noise are those of the noise in the rest of the space. So a share of them is
    compared with the quantiles of the Marchenko-Pastur law, for several ranks of the signal; a slope of the ratio is
    the sign of signal.

    Reference:
        Marchenko and Pastur, Distribution of eigenvalues for some sets of random matrices, 1967.
    """
    live = matrix[(matrix != 0).any(1)]
    live = live[:, (live != 0).any(0)]
    short = live if live.shape[0] <= live.shape[1] else live.T
    rows, columns = short.shape
    if rows < ROWS:
        return None
    energies, vectors = eigh(short @ short.T)
    sizes = energies.clamp_min(0).sqrt()
    if float(sizes[: rows // 3].max()) < EXACT * float(sizes[-1]):
        return Tail(sigma=0.0)
    for rank in (rows // 16, rows // 8, rows // 4, rows // 2, 2 * rows // 3, 4 * rows // 5):
        expected = quantiles(rows - rank, columns)[: max(6, (rows - rank) // 2)]
        ratio = sizes[: len(expected)] / expected
        half = len(ratio) // 2
        slope = float(ratio[:half].mean() / ratio[half:].mean()) - 1
        if float(ratio.std() / ratio.mean()) < STRAIGHT and abs(slope) < STRAIGHT:
            basis = vectors[:, : rows - rank]
            projector = basis @ basis.T
            rest = projector @ short
            dilution = (projector.pow(4).sum(1) / projector.square().sum(1).square()).mean()
            scaled = rest / rest.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
            excess = float(scaled.pow(4).mean()) - 3
            return Tail(
                sigma=float(ratio.median()),
                entries=rest.numel(),
                excess=excess / float(dilution),
                dilution=float(dilution),
            )
    return None


def part_of(matrix: Float[Tensor, "rows columns"], entries: int) -> Float[Tensor, "some few"]:
    """Some columns of a large matrix, and some rows of one with many: rank and noise are those of the whole."""
    rows = torch.linspace(0, matrix.shape[0] - 1, min(matrix.shape[0], 256)).long()
    some = matrix[rows]
    columns = torch.linspace(0, some.shape[1] - 1, min(some.shape[1], max(entries // len(some), 64))).long()
    return some[:, columns]


@lru_cache(maxsize=64)
def quantiles(rows: int, columns: int) -> Float[Tensor, " rows"]:
    """Expected singular values of rows x columns noise of variance 1, rows <= columns, smallest first."""
    share = rows / columns
    low, high = (1 - share**0.5) ** 2, (1 + share**0.5) ** 2
    places = torch.linspace(low, high, 8001, dtype=torch.float64)[1:-1]
    mass = ((high - places) * (places - low)).clamp_min(0).sqrt() / places
    below = mass.cumsum(0) / mass.sum()
    wanted = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    found: Tensor = (columns * places[torch.searchsorted(below, wanted).clamp(max=len(places) - 1)]).sqrt()
    return found
