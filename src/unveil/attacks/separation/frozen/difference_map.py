"""Find binary patterns in an affine space by the difference map, which leaves wrong patterns that alternation keeps.

The search looks for a point that is in two sets: patterns of 0 and 1, and an affine space. Projecting on both in turns
stays at the first pattern that is nearest to its own projection. The difference map moves by the difference of the two
projections instead, and rests only at a point of both sets.

Reference:
    Elser, Rankenburg and Thibault, Searching with iterated maps, PNAS 2007; in the form of Elser, The complexity of bit
    retrieval, IEEE Transactions on Information Theory 2018 (relaxed reflections). For gates: ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

STEP = 0.5  # share of the difference of the projections by which a point moves
LOOKED = 50  # moves after which patterns are compared with the space


def find_binary(
    basis: Float[Tensor, "entries dimensions"],
    shift: Float[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    *,
    count: int,
    tries: int,
    moves: int,
    fits: float,
    generator: Generator,
) -> Float[Tensor, "found entries"]:
    """Find patterns p of 0 and 1 for which ``p - shift`` lies in the span of a basis.

    Args:
        basis: The basis of the space.
        shift: A point of the affine space.
        weights: How much each entry counts in distances, more than 0.
        count: Number of different patterns at which the search ends.
        tries: Points that move at a time.
        moves: Most moves of each.
        fits: Distance of a pattern from the space, relative to its length, up to which it is taken to lie there.
        generator: Randomness of the first points.

    Returns:
        The different patterns that were found, at most `count`, those nearest to the space first.
    """
    space, _ = torch.linalg.qr(basis * weights[:, None])
    size = weights[:, None]
    base = shift[:, None] * size
    base = base - space @ (space.T @ base)

    def on_space(points: Float[Tensor, "entries tries"]) -> Float[Tensor, "entries tries"]:
        projected: Tensor = base + space @ (space.T @ points)
        return projected

    def drawn(number: int) -> Float[Tensor, "entries number"]:
        share = torch.rand((len(shift), number), generator=generator, device=generator.device)
        return share.to(basis) * size

    points = drawn(tries)
    found, off = basis.new_zeros((0, len(shift))), basis.new_zeros(0)
    for move in range(1, moves + 1):
        rounded = torch.where(points > 0.5 * size, size, 0.0)
        points = points + STEP * (on_space(2 * rounded - points) - rounded)
        if move % LOOKED:
            continue
        distance = (on_space(rounded) - rounded).norm(dim=0) / rounded.norm(dim=0).clamp_min(1e-30)
        rests = distance < fits
        if bool(rests.any()):
            found, off = _different(
                torch.cat([found, (rounded[:, rests] > 0).to(basis).T]), torch.cat([off, distance[rests]])
            )
            points[:, rests] = drawn(int(rests.sum()))
            if len(found) >= count:
                break
    return found[:count]


def _different(
    patterns: Float[Tensor, "some entries"], off: Float[Tensor, " some"]
) -> tuple[Float[Tensor, "few entries"], Float[Tensor, " few"]]:
    """Leave out repeated patterns, and sort them by their distance from the space."""
    unique, where = torch.unique(patterns, dim=0, return_inverse=True)
    nearest = off.new_full((len(unique),), torch.inf).scatter_reduce(0, where, off, "amin")
    order = nearest.argsort()
    return unique[order], nearest[order]
