"""Low rank: every matrix is a product of two thin ones, those of convolutions too."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.inspection.fingerprint.findings import Finding
from unveil.inspection.fingerprint.received import Received

EXACT = 4e-6  # singular values below this share of the largest are rounding
FULL = 0.9  # of the singular values: a matrix with more of them is of full rank
HIGH = 0.5  # of the rows or columns of the largest matrix: no factors of such a rank are worth sending
MOST = 128  # rows and columns of a matrix that are looked at


def low_rank(received: Received) -> Finding | None:
    """Find PowerSGD, or None.

    The gradient of a Linear layer has a rank no larger than its examples, that of a convolution no larger than its
    examples times positions. A rank that all matrices share, convolutions among them, is that of the factors sent.
    """
    ranks = {n: rank_of(received.values[n].flatten(1)) for n in received.matrices}
    known = {n: rank for n, rank in ranks.items() if rank is not None}
    rank = max(known.values(), default=0)
    thin = [n for n in ranks if rank * sum(received.values[n].flatten(1).shape) < received.values[n].numel()]
    widest = max((min(*received.values[n].flatten(1).shape, MOST) for n in thin), default=0)
    if rank > HIGH * widest:
        return None  # what is left of a matrix of full rank by a quantiser that made most of it zeros
    convolutions = [n for n in thin if received.values[n].dim() > 2]
    if not rank or not thin or any(ranks[n] is None for n in thin):
        return None
    at_rank = [n for n in thin if ranks[n] == rank]
    telling = convolutions or thin  # a small batch gives Linear layers a rank that is lower still
    if len([n for n in telling if n in at_rank]) < 0.6 * len(telling) or len(at_rank) < 2:
        return None
    return Finding(
        spec=f"powersgd:rank={rank}",
        confidence=0.99 if convolutions else 0.4,
        evidence=f"{len(at_rank)} of {len(thin)} matrices have rank {rank} exactly, "
        f"{len(convolutions)} kernels of convolutions among them",
        equals=("what was done to the factors, which do not arrive themselves",)
        if convolutions
        else ("none: a batch of as many examples gives every Linear layer this rank",),
    )


def rank_of(matrix: Float[Tensor, "rows columns"]) -> int | None:
    """Number of singular values that are more than rounding; None where there are as many as there can be.

    Of a large matrix some rows and columns are looked at, which have its rank if it is low.
    """
    live = matrix[(matrix != 0).any(1)]
    live = live[:, (live != 0).any(0)]
    rows, columns = (torch.linspace(0, n - 1, min(n, MOST)).long() for n in live.shape)
    part = live[rows][:, columns]
    if not part.numel():
        return 0
    sizes = torch.linalg.svdvals(part)
    rank = int((sizes > EXACT * sizes[0]).sum())
    return rank if rank < FULL * min(part.shape) else None
