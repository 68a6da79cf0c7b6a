"""Tell images of one class apart by the gates of ReLU.

Two images of one class start with the same errors behind every gate: only which gates are open tells them apart, and
those are what is looked for. Every row of D is such a row of errors times a pattern of zeros and ones, and lies in the
small space that the rows of the gradient span. A random pattern is projected onto that space and rounded, again and
again, until it stays: what stays and lies in the space is an image.

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
    """The open gates of the images of one class.

    Args:
        gradient: Of the weight before the gates.
        opened: The errors of this class behind open gates.
        count: Images of the class.
        rank: Images of the batch.
        tuning: Of the factorisation.
        generator: Randomness of the first patterns.

    Returns:
        One pattern of zeros and ones an image; fewer than `count` where no more were found.
    """
    gram = (gradient @ gradient.T).double()
    space = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    size = opened.abs().double().clamp_min(1e-30)
    basis = space / opened.double()[:, None]
    # Gates of large errors are told more surely: least squares in the gradient's own units.
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
