"""Class counts: how often each class occurs in a batch of n pictures, by maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.labels.likelihood import Chance, Likelihood, Signals

SHARPNESS = (1.0, 3.0, 10.0)  # ratios of the standard deviation between public pictures to that between the batch's
PRIOR = 0.5  # exponent of the multinomial prior: 0 makes all counts equally likely, 1 draws each class independently
MANY = 1 << 21  # operations for one factor above which fewer factors are tried
REACH = 2.5  # the factors that are tried lie within this number of standard deviations of the expected one


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each class occurs in a batch.

    Args:
        numbers: The count of each class, 0 or more; their sum is n.
        cost: Negative log-likelihood of the counts, in nats.
        margin: Difference between the cost of the second best counts and this cost, in nats.
    """

    numbers: Int[Tensor, " classes"]
    cost: float
    margin: float


def likeliest_counts(
    likelihood: Likelihood, signals: Signals, chance: Chance, *, num_images: int, middle: float, width: float
) -> Counts:
    """Find the counts of the highest likelihood, jointly with two unknown numbers of the batch.

    The two numbers are the factor, which is the ratio of the update's length to that of a rehearsal, and the sharpness,
    which says how much less the pictures of the batch differ than the public pictures do.

    Args:
        likelihood: The likelihood of a signal, fitted to rehearsals.
        signals: The signals of the received update.
        chance: The class probabilities on public pictures.
        num_images: Number of pictures n, which is the sum of the counts.
        middle: Expected natural logarithm of the factor.
        width: Standard deviation of that logarithm; more than 0.
    """
    means, variances = likelihood.means(chance), likelihood.variances(signals, chance)
    # If a class occurs not at all or once, the ratio of its signal to the mean in rehearsal is the factor.
    ratios = torch.cat([(signals.values / means[:, k]) for k in (0, 1)])
    ratios = (ratios[signals.arrived.repeat(2) & (ratios > 0)].log() - middle) / width
    ratios = ratios[ratios.abs() < REACH].sort().values
    many = means.numel() * num_images <= MANY
    chosen = torch.linspace(0, len(ratios) - 1, min(len(ratios), 16 if many else 4)).long()
    steps = torch.linspace(-REACH, REACH, 13 if many else 5).tolist() + ratios[chosen].tolist()
    prior = PRIOR * torch.lgamma(torch.arange(num_images + 1) + 1.0)
    for _ in range(2):
        step, sharp = torch.cartesian_prod(torch.tensor(steps).double(), torch.arange(len(SHARPNESS)).double()).T
        sharpness = torch.tensor(SHARPNESS).to(step)[sharp.long()]
        costs = prior + likelihood.costs(signals, chance, (middle + width * step).exp(), sharpness)
        gains = (costs[..., 1:].amin(2) - costs[..., 0]).amin(0)
        few = gains.argsort()[: 3 * num_images + 16].sort().values  # no other class occurs
        few_counts, total = cheapest_counts(costs[:, few])
        total = total + costs[..., 0].sum(1) - costs[:, few, 0].sum(1)
        total = total + step.square() / 2 + math.log(width) + sharp
        counts = torch.zeros(costs.shape[:2], dtype=torch.long)
        counts[:, few] = few_counts
        steps = []
        for at in total.argsort()[:4].tolist():  # the second round tries the factors that fit these counts best
            mean, variance = (t.gather(1, counts[at][:, None]).squeeze(1) for t in (means, variances))
            weight = signals.arrived / variance
            fit = float((weight * mean * signals.values).sum() / (weight * mean.square()).sum().clamp_min(1e-300))
            steps += [float(step[at])] + ([(math.log(fit) - middle) / width] if fit > 0 else [])
    at = int(total.argmin())
    return Counts(counts[at], float(total[at]), margin(costs[at], counts[at]))


def cheapest_counts(
    costs: Float[Tensor, "cases classes most"],
) -> tuple[Int[Tensor, "cases classes"], Float[Tensor, " cases"]]:
    """Find the counts with sum n that have the lowest total cost, in each of several independent cases.

    The result is exact. Dynamic programming over the classes takes n^2 operations for each class.

    Args:
        costs: The finite cost of k pictures of a class, for each case, each class and each k = 0 to n.

    Returns:
        For each case the counts and their total cost.
    """
    cases, classes, most = costs.shape
    numbers = torch.arange(most)
    before = numbers[:, None] - numbers  # pictures left for earlier classes; the column is this class's count
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
    """Return the difference between the cost of the second best counts and that of the given counts.

    Args:
        costs: The cost of k pictures of each class, for k = 0 to n.
        counts: The counts of the lowest total cost.

    Returns:
        The lowest extra cost of moving one picture to another class; infinite if there is only one class.
    """
    classes, most = costs.shape
    every = torch.arange(classes)
    now = costs[every, counts]
    more = torch.where(counts < most - 1, costs[every, (counts + 1).clamp(max=most - 1)] - now, torch.inf)
    less = torch.where(counts > 0, costs[every, (counts - 1).clamp_min(0)] - now, torch.inf)
    change = more[:, None] + less
    return float(change.fill_diagonal_(torch.inf).min())
