"""How often each class occurs: whole numbers of known sum that cost least."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cheapest_counts(
    costs: Float[Tensor, "cases classes most"],
) -> tuple[Int[Tensor, "cases classes"], Float[Tensor, " cases"]]:
    """The counts of lowest total cost.

    Exact, by dynamic programming over the classes: n^2 operations for each.

    Args:
        costs: In each of several cases, what it costs that a class occurs k times, for k = 0 to n. Finite.

    Returns:
        For each case the counts, n in all, and their total cost.
    """
    cases, classes, most = costs.shape
    numbers = torch.arange(most)
    before = numbers[:, None] - numbers  # pictures left for earlier classes when this one takes the column's number
    impossible, before = before < 0, before.clamp_min(0)
    total, taken = costs[:, 0], []
    for cost in costs.unbind(1)[1:]:
        sums = total[:, before] + cost[:, None]
        total, choice = sums.masked_fill_(impossible, torch.inf).min(2)
        taken.append(choice)
    counts = torch.zeros((cases, classes), dtype=torch.long)
    left, every = torch.full((cases,), most - 1), torch.arange(cases)
    for c in range(classes - 1, 0, -1):
        counts[:, c] = taken[c - 1][every, left]
        left = left - counts[:, c]
    counts[:, 0] = left
    return counts, total[:, -1]


def margin(costs: Float[Tensor, "classes most"], counts: Int[Tensor, " classes"]) -> float:
    """By how much the next best counts cost more, those among them that differ in one picture; infinity if none do."""
    classes, most = costs.shape
    every = torch.arange(classes)
    now = costs[every, counts]
    more = torch.where(counts < most - 1, costs[every, (counts + 1).clamp(max=most - 1)] - now, torch.inf)
    less = torch.where(counts > 0, costs[every, (counts - 1).clamp_min(0)] - now, torch.inf)
    change = more[:, None] + less
    return float(change.fill_diagonal_(torch.inf).min())
