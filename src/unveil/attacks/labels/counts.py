"""How often each class occurs: whole numbers of known sum that cost least."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.labels.likelihood import Chance, Likelihood, Signals

SHARPNESS = (1.0, 3.0, 10.0)  # how many times less a batch's pictures may differ than the public ones
PRIOR = 0.5  # between 0, any share of the classes alike, and 1, every picture's class drawn by itself
MANY = 1 << 21  # operations for one factor beyond which fewer factors are tried
REACH = 2.5  # standard deviations of the factor that are tried


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each class occurs.

    Args:
        numbers: A count for each class.
        cost: Negative log-likelihood.
        margin: By how much the next best cost more.
    """

    numbers: Int[Tensor, " classes"]
    cost: float
    margin: float


def likeliest_counts(
    likelihood: Likelihood, signals: Signals, chance: Chance, *, num_images: int, middle: float, width: float
) -> Counts:
    """The counts that explain the signals best, together with the update's length and how alike its pictures are.

    Args:
        likelihood: What rehearsals say.
        signals: What was received.
        chance: The expected probabilities.
        num_images: Sum of the counts.
        middle: Expected logarithm of how many times larger the update is than in rehearsal.
        width: Its standard deviation.
    """
    means, variances = likelihood.means(chance), likelihood.variances(signals, chance)
    # Where a class does not occur, or once, its signal alone tells the factor.
    ratios = torch.cat([(signals.values / means[:, k]) for k in (0, 1)])
    ratios = (ratios[signals.known.repeat(2) & (ratios > 0)].log() - middle) / width
    ratios = ratios[ratios.abs() < REACH].sort().values
    many = means.numel() * num_images <= MANY
    some = torch.linspace(0, len(ratios) - 1, min(len(ratios), 16 if many else 4)).long()
    steps = torch.linspace(-REACH, REACH, 13 if many else 5).tolist() + ratios[some].tolist()
    prior = PRIOR * torch.lgamma(torch.arange(num_images + 1) + 1.0)
    for _ in range(2):
        step, sharp = torch.cartesian_prod(torch.tensor(steps).double(), torch.arange(len(SHARPNESS)).double()).T
        sharpness = torch.tensor(SHARPNESS).to(step)[sharp.long()]
        costs = prior + likelihood.costs(signals, chance, (middle + width * step).exp(), sharpness)
        gains = (costs[..., 1:].amin(2) - costs[..., 0]).amin(0)
        few = gains.argsort()[: 3 * num_images + 16].sort().values  # the rest does not occur
        found, total = cheapest_counts(costs[:, few])
        total = total + costs[..., 0].sum(1) - costs[:, few, 0].sum(1)
        total = total + step.square() / 2 + math.log(width) + sharp
        counts = torch.zeros(costs.shape[:2], dtype=torch.long)
        counts[:, few] = found
        steps = []
        for at in total.argsort()[:4].tolist():  # once more with the factors that fit these counts best
            mean, variance = (t.gather(1, counts[at][:, None]).squeeze(1) for t in (means, variances))
            weight = signals.known / variance
            fit = float((weight * mean * signals.values).sum() / (weight * mean.square()).sum().clamp_min(1e-300))
            steps += [float(step[at])] + ([(math.log(fit) - middle) / width] if fit > 0 else [])
    at = int(total.argmin())
    return Counts(counts[at], float(total[at]), margin(costs[at], counts[at]))


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
