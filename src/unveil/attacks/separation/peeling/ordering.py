"""Put the patches of a map in order by their overlap: neighbours share all columns or rows but those of one stride."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ordered(
    patches: Float[Tensor, "places channels side side"], height: int, width: int, *, stride: int = 1
) -> Int[Tensor, " places"]:
    """Return the order in which patches stand, row by row.

    The first patch is the one whose top rows and left columns are nearest to zero: those of the padding.
    Each next one continues the patches above it and to its left best.

    Args:
        patches: One patch for each place, in any order; the kernel's side is 3 or more, with half of it as padding.
        height: Rows of the map.
        width: Columns of the map.
        stride: Rows and columns from one patch to the next, less than the kernel's side.
    """
    right = _distance(patches[..., stride:], patches[..., :-stride])
    below = _distance(patches[:, :, stride:], patches[:, :, :-stride])
    zeros = patches.shape[-1] // 2
    border = patches[..., :zeros].square().mean((1, 2, 3)) + patches[:, :, :zeros].square().mean((1, 2, 3))
    taken: list[int] = [int(border.argmin())]
    for place in range(1, height * width):
        row, column = divmod(place, width)
        cost = torch.zeros_like(border)
        if column:
            cost = cost + right[taken[place - 1]]
        if row:
            cost = cost + below[taken[place - width]]
        cost[taken] = torch.inf
        taken.append(int(cost.argmin()))
    return torch.tensor(taken, device=patches.device)


def _distance(
    first: Float[Tensor, "places channels h w"], second: Float[Tensor, "places channels h w"]
) -> Float[Tensor, "places places"]:
    """Mean squared distance of each of the first from each of the second."""
    a, b = first.flatten(1), second.flatten(1)
    return (a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T) / a.shape[1]
