"""The parts that observation models are made of: penalties on entries, summed over an update.

A misfit is the mean penalty per judged entry, so that its size does not depend on the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from unveil.core import Misfit, Update
from unveil.thin import Candidate, Penalty, entrywise, square_distance


def squared(received: Update, weights: Mapping[str, float] | None = None, *, sent_only: bool = False) -> Misfit:
    """Mean of ``w (x - y)^2``: exact values, or Gaussian noise with ``w = 1 / sigma^2``.

    Args:
        received: What came out of the channel.
        weights: Weight of each tensor; 1 where None.
        sent_only: Judge only the non-zero entries.
    """
    weight = {name: 1.0 if weights is None else weights[name] for name in received.tensors}
    if sent_only:
        penalties = {name: partial(_weighted_square, weight=w) for name, w in weight.items()}
        return penalised(received, penalties, sent_only=True)
    norms = {name: y.square().sum() for name, y in received.tensors.items()}
    entries = sum(y.numel() for y in received.tensors.values())

    def misfit(candidate: Candidate) -> Tensor:
        terms = [
            weight[name] * square_distance(candidate[name], y, norms[name]) for name, y in received.tensors.items()
        ]
        return torch.stack(terms).sum() / entries

    return misfit


def penalised(
    received: Update,
    penalties: Mapping[str, Penalty],
    per_entry: Mapping[str, Tensor] | None = None,
    *,
    sent_only: bool = False,
) -> Misfit:
    """Mean of ``penalty(x, y)`` or, where `per_entry` is given, ``penalty(x, y, extra)``.

    Args:
        received: What came out of the channel.
        penalties: Tensor name -> penalty; a tensor without one says nothing and is left out.
        per_entry: Tensor name -> a tensor of the same shape for the penalty's third argument.
        sent_only: Judge only the non-zero entries.
    """
    judged = {name: received.tensors[name] for name in penalties}
    if sent_only:
        penalties = {name: partial(_on_sent, penalty) for name, penalty in penalties.items()}
        entries = sum(int(torch.count_nonzero(y)) for y in judged.values())
    else:
        entries = sum(y.numel() for y in judged.values())
    extra = {name: (per_entry[name],) if per_entry else () for name in judged}

    def misfit(candidate: Candidate) -> Tensor:
        terms = [entrywise(penalties[name], candidate[name], y, *extra[name]) for name, y in judged.items()]
        return torch.stack(terms).sum() / max(entries, 1) if terms else torch.zeros(())

    return misfit


def added(first: Misfit, second: Misfit) -> Misfit:
    """The sum of two misfits, for what two stages of a channel say about different entries."""
    return lambda candidate: first(candidate) + second(candidate)


def _weighted_square(x: Tensor, y: Tensor, weight: float) -> Tensor:
    return weight * (x - y).square()


def _on_sent(penalty: Penalty, x: Tensor, y: Tensor, *extra: Tensor) -> Tensor:
    return penalty(x, y, *extra) * (y != 0)
