"""Find the gates of every place of a pooled map: binary patterns in the row space of a convolution's gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.separation.relu_patterns import row_space, settled

ALIKE = 1e-5  # share of the squared slopes in which two patterns may differ and are still one
FITS = 1e-4  # distance of a pattern from the row space, relative to its length, up to which it is taken for exact

TURNS = 80  # most turns of projecting and rounding
IDLE = 4  # times without a new pattern after which the search for an image ends


def find_gates(
    gradient: Float[Tensor, "out patch"],
    opened: Float[Tensor, "n out"],
    *,
    places: int,
    tries: int,
    rounds: int,
    generator: Generator,
) -> list[Float[Tensor, "found out"]]:
    """Find the open gates of each place of each image.

    The gradient is ``sum over images b and places p of (opened_b * gates_bp)^T patch_bp``, so each row ``opened_b *
    gates_bp`` lies in the space of its left singular vectors, of rank n places. Random patterns are projected on the
    space and rounded in turns until they stay; those that lie in the space are gates.

    Args:
        gradient: The received gradient of the weight, float64.
        opened: Slopes of the loss at an output of the convolution if its gate is open, one row for each image.
        places: Places of the map of one image.
        tries: Random patterns that are tried at a time.
        rounds: Times that they are tried, at most; the search for an image ends when all of its places are found.
        generator: Randomness of the patterns.

    Returns:
        For each image the different patterns that were found, at most `places`; each with gates of 0 and 1. The first
        image of which some are missing is the last one.
    """
    rank = len(opened) * places
    space = row_space(gradient, rank)
    found = []
    for row in opened:
        patterns, off, idle = space.new_zeros((0, len(row))), space.new_zeros(0), 0
        for _ in range(rounds):
            before = len(patterns)
            more, more_off = _search(space, row, tries, generator)
            patterns, off = _best_of_each(torch.cat([patterns, more]), torch.cat([off, more_off]), row)
            idle = 0 if len(patterns) > before else idle + 1
            if len(patterns) >= places or idle == IDLE:
                break
        found.append(patterns[:places])
        if len(patterns) < places:
            break
    return found


def _best_of_each(
    patterns: Float[Tensor, "some out"], off: Float[Tensor, " some"], opened: Float[Tensor, " out"]
) -> tuple[Float[Tensor, "few out"], Float[Tensor, " few"]]:
    """Sort patterns by their distance from the space, and leave out those that differ from a better one only in gates
    of next to no slope.
    """
    share = opened.square() / opened.square().sum()
    chosen: list[int] = []
    for index in off.argsort().tolist():
        differs = (patterns[index] != patterns[chosen]).to(share) @ share
        if not bool((differs < ALIKE).any()):
            chosen.append(index)
    return patterns[chosen], off[chosen]


def _search(
    space: Float[Tensor, "out rank"], opened: Float[Tensor, " out"], tries: int, generator: Generator
) -> tuple[Float[Tensor, "found out"], Float[Tensor, " found"]]:
    """Return the patterns that random starts lead to and that lie in the space, and their distances from it."""
    shares = 0.2 + 0.6 * torch.rand((1, tries), generator=generator, device=generator.device)
    starts = torch.rand((len(opened), tries), generator=generator, device=generator.device) > shares
    patterns, off = settled(space, opened, starts.to(space), rounds=TURNS)
    share = patterns.mean(0)
    fits = (off < FITS) & (share > 0.02) & (share < 0.999)
    unique, where = torch.unique(patterns[:, fits].T, dim=0, return_inverse=True)
    distances = off.new_zeros(len(unique)).scatter_reduce(0, where, off[fits], "amin", include_self=False)
    return unique, distances
