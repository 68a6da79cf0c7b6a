"""Separate images of one class by their ReLU patterns.

At equal class probabilities two images of one class have the same errors behind open gates, and differ only in which
gates are open. So each row of D is this row of errors times a pattern of zeros and ones, and it lies in the space that
the columns of the gradient span, whose dimension is at most the number of images. The search projects random patterns
onto that space and rounds them, until they no longer change. A pattern that does not change and whose row lies in the
space belongs to an image.

Reference:
    Talwar, Viberg and Paulraj, Blind Separation of Synchronous Co-Channel Digital Signals Using an Antenna Array, IEEE
    Transactions on Signal Processing 1996 (iterated projection on a finite alphabet); Dimitrov et al., SPEAR: Exact
    Gradient Inversion of Batches in Federated Learning, NeurIPS 2024 (the gates of ReLU as the key). Together, and on
    obfuscated updates: ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.separation.tuning import FactorisationTuning


def find_patterns(
    gradient: Float[Tensor, "out features"],
    opened: Float[Tensor, " out"],
    count: int,
    rank: int,
    *,
    tuning: FactorisationTuning,
    generator: Generator,
) -> Float[Tensor, "count out"]:
    """Find the open gates of the images of one class.

    Args:
        gradient: The received gradient of the weight before the gates.
        opened: The errors of this class if all gates were open.
        count: Number of images of the class.
        rank: Number of images of the batch.
        tuning: The constants of the factorisation.
        generator: Randomness of the first patterns.

    Returns:
        One row of zeros and ones for each image that was found, at most `count`; the best row comes first.
    """
    space = row_space(gradient, rank)
    starts = torch.rand((len(opened), tuning.pattern_tries), generator=generator, device=generator.device) > 0.5
    patterns, left = settled(space, opened.double(), starts.to(space), rounds=tuning.pattern_rounds)
    share = patterns.mean(0)
    left[(share < tuning.fewest_open) | (share > 1 - tuning.fewest_open / 10)] = torch.inf
    found: list[Tensor] = []
    for index in left.argsort():
        pattern = patterns[:, index]
        if len(found) == count or not bool(left[index].isfinite()):
            break
        if all(float((pattern == other).double().mean()) < tuning.same_pattern for other in found):
            found.append(pattern)
    chosen = torch.stack(found) if found else patterns.new_zeros((0, len(opened)))
    return chosen.to(gradient.dtype)


def row_space(gradient: Float[Tensor, "out features"], rank: int) -> Float[Tensor, "out rank"]:
    """Return an orthonormal basis of the space of a gradient's columns, float64: its `rank` strongest directions."""
    gram = (gradient @ gradient.T).double()
    try:
        basis: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # Of some gradients of which little was sent the eigenvalues are not found; an SVD does not need them.
        basis = torch.linalg.svd(gradient.double(), full_matrices=False)[0][:, :rank].flip(1)
    return basis


def settled(
    space: Float[Tensor, "out rank"],
    opened: Float[Tensor, " out"],
    patterns: Float[Tensor, "out tries"],
    *,
    rounds: int,
) -> tuple[Float[Tensor, "out tries"], Float[Tensor, " tries"]]:
    """Project patterns of gates on a space and round them, in turns, until they stay.

    Gates of large errors are more certain, so each gate is weighted by its error.

    Args:
        space: An orthonormal basis of the space in which ``opened * pattern`` lies for the true patterns.
        opened: The errors behind the gates if all were open.
        patterns: The first patterns, of 0 and 1, one a column.
        rounds: Most turns.

    Returns:
        The patterns, and the distance of ``opened * pattern`` from the space in units of its length.
    """
    size = opened.abs()[:, None]
    basis, _ = torch.linalg.qr(space * opened.sign()[:, None])
    for _ in range(rounds):
        rounded = (basis @ (basis.T @ (size * patterns)) > 0.5 * size).to(patterns)
        if torch.equal(rounded, patterns):
            break
        patterns = rounded
    whole = size * patterns
    off = (whole - basis @ (basis.T @ whole)).norm(dim=0) / whole.norm(dim=0).clamp_min(1e-30)
    return patterns, off
