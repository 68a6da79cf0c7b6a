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
    gram = (gradient @ gradient.T).double()
    space = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    size = opened.abs().double().clamp_min(1e-30)
    basis = space / opened.double()[:, None]
    # Gates of large errors are more certain, so each gate is weighted by its error in the least squares.
    weighted = size[:, None] * basis
    project = torch.linalg.pinv(weighted)
    patterns = torch.rand((len(opened), tuning.pattern_tries), generator=generator, device=generator.device).to(
        gradient.device
    )
    patterns = (patterns > 0.5).double()
    for _ in range(tuning.pattern_rounds):
        rounded = (basis @ (project @ (size[:, None] * patterns)) > 0.5).double()
        if torch.equal(rounded, patterns):
            break
        patterns = rounded
    off = size[:, None] * (basis @ (project @ (size[:, None] * patterns)) - patterns)
    left = off.norm(dim=0) / (size[:, None] * patterns).norm(dim=0).clamp_min(1e-30)
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
