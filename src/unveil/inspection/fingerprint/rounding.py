"""Whether values were rounded to the nearest level or at random, and how large they were before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.spectra import eigh
from unveil.inspection.fingerprint.grid import Grid
from unveil.inspection.fingerprint.marchenko_pastur import part_of, quantiles
from unveil.inspection.fingerprint.received import Received

BIASED = 6.0  # standard errors by which sums over the classes are off zero; rounding at random is right on average
LEAST = 24  # columns of the head, or rows of another matrix
LARGE = 700_000


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How values were rounded.

    Args:
        is_nearest: To the nearest level; False for at random.
        confidence: In [0.5, 1].
        evidence: What was seen.
    """

    is_nearest: bool
    confidence: float
    evidence: str


UNKNOWN = Rounding(is_nearest=False, confidence=0.5, evidence="how values were rounded cannot be told")


def rounding_of(received: Received, grids: Mapping[str, Grid]) -> Rounding:
    """Tell rounding to the nearest level from rounding at random, by what must hold of a gradient."""
    votes = [vote for vote in (_by_sums(received, grids), *_by_rank(received, grids)) if vote is not None]
    if not votes:
        return UNKNOWN
    total = sum(score for score, _ in votes)
    evidence = "; ".join(dict.fromkeys(words for _, words in votes))
    return Rounding(is_nearest=total > 0, confidence=0.5 + 0.49 * math.tanh(abs(total) / 2), evidence=evidence)


def _by_sums(received: Received, grids: Mapping[str, Grid]) -> tuple[float, str] | None:
    """The head's rows sum to zero over the classes; what is left is the rounding's."""
    name = received.head
    if name is None or name not in grids:
        return None
    steps = received.values[name] / grids[name].step
    steps = steps[:, (steps != 0).any(0)]
    if steps.shape[1] < LEAST:
        return None
    sums = steps.sum(0)
    spread = float(sums.square().mean().sqrt())
    bias = abs(float(sums.mean())) / max(spread, 1e-12) * math.sqrt(len(sums))
    if bias > BIASED:
        return 2.0, f"the head's columns sum to {float(sums.mean()):.2f} steps, {bias:.0f} standard errors from zero"
    per_entry = spread**2 / steps.shape[0]
    # At random a value above one step adds a sixth on average; below it x adds x (1 - x), with x the share of its
    # column that became a level, somewhat less as not all are equal. To the nearest the errors are smaller, unless
    # entries that are alike are all moved alike: then their sums are larger.
    small = steps.abs() < 1.5
    chance = steps.abs().where(small, 0.0).sum(0) / small.sum(0).clamp_min(1)
    random = float((small * (chance * (1 - chance * 4 / 3)).clamp_min(0) + ~small / 6).mean())
    ratio = per_entry / max(random, 1e-9)
    evidence = f"the head's columns sum to zero but for {per_entry:.3f} squared steps an entry; at random {random:.3f}"
    return max(-3.0, min(3.0, 3 * (abs(ratio - 0.95) - 0.18) / 0.18)), evidence


def _by_rank(received: Received, grids: Mapping[str, Grid]) -> list[tuple[float, str]]:
    """Where a matrix has a low rank, its entries are known better than a step: what rounding made of them is seen."""
    votes: list[tuple[float, str]] = []
    for name in received.matrices:
        if name not in grids or len(votes) >= 2:
            continue
        fitted = fit_low_rank(part_of(received.values[name].flatten(1), LARGE) / grids[name].step)
        if fitted is None:
            continue
        steps, signal = fitted
        place = signal.abs() - signal.abs().floor()
        near_quarter = ((place - 0.25).abs() < 0.12) | ((place - 0.75).abs() < 0.12)
        chosen = near_quarter & (signal.abs() > 0.1)
        if int(chosen.sum()) < 150:
            continue
        error = float((steps - signal)[chosen].square().mean())
        # 0.19 at random and 0.07 to the nearest, both and the error of the fit.
        score = 4 * (0.125 - error) / 0.06
        votes.append(
            (
                max(-3.0, min(3.0, score)),
                f"a quarter of a step from a level, {name} is off by {error:.3f} squared steps, "
                "0.19 if rounded at random and 0.07 to the nearest",
            )
        )
    return votes


def fit_low_rank(
    steps: Float[Tensor, "rows columns"],
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]] | None:
    """The rows and columns in use, and the matrix of low rank that is nearest; None where no rank stands out."""
    live = steps[(steps != 0).any(1)]
    live = live[:, (live != 0).any(0)]
    short = live if live.shape[0] <= live.shape[1] else live.T
    rows, columns = short.shape
    if rows < 16:
        return None
    energies, vectors = eigh(short @ short.T)
    sizes = energies.clamp_min(0).sqrt()
    edge = float(sizes.median() / quantiles(rows, columns)[rows // 2]) * (math.sqrt(rows) + math.sqrt(columns)) * 1.15
    rank = int((sizes > edge).sum())
    if not 0 < rank <= rows // 4:
        return None
    basis = vectors[:, -rank:]
    return short, basis @ (basis.T @ short)


def signal_energy(steps: Float[Tensor, "rows columns"]) -> float:
    """Sum of squares of what stands above the rounding's noise in the singular values; 0 where nothing does."""
    live = steps[(steps != 0).any(1)]
    live = live[:, (live != 0).any(0)]
    short = live if live.shape[0] <= live.shape[1] else live.T
    rows, columns = short.shape
    if rows < 8:
        return 0.0
    energies = torch.linalg.eigvalsh(short @ short.T).clamp_min(0)
    variance = float(energies.median()) / float(quantiles(rows, columns)[rows // 2]) ** 2
    edge = variance * (math.sqrt(rows) + math.sqrt(columns)) ** 2
    above = energies[energies > 1.1 * edge]
    # A singular value x of the signal arrives as (x^2 + rows v)(x^2 + columns v) / x^2, squared.
    middle = above - (rows + columns) * variance
    own = (middle + (middle.square() - 4 * rows * columns * variance**2).clamp_min(0).sqrt()) / 2
    return float(own.sum())


def energy(steps: Float[Tensor, " ..."]) -> float:
    """Sum of squares, in squared steps, of values before they were rounded at random.

    Above one step the rounding adds a sixth on average; a value below it is its own chance to become one.
    """
    sizes = steps.abs().round()
    added = torch.where(sizes > 1, 1 / 6, torch.where(sizes == 1, 0.5, 0.0))
    return max(float((sizes.square() - added).sum()), 1.0)
