"""The mean of several updates, of the rounds of one client or of the clients of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from unveil.core.types import Tensors
from unveil.core.update import Update


def mean_of_rounds(sent: Sequence[Update]) -> Update:
    """Return the mean of what a client sent in all rounds, which the server sees too."""
    tensors = {name: torch.stack([one.tensors[name] for one in sent]).mean(0) for name in sent[0].tensors}
    return replace(_with_support(tensors, sent), rounds=tuple(sent))


def mean_of_messages(sent: Sequence[Update], weights: Sequence[float]) -> Update:
    """Return the weighted mean of what the clients of a cohort sent, each by itself.

    Args:
        sent: What each client sent.
        weights: Weight of each; their sum is 1.
    """
    tensors = {
        name: torch.stack([weight * one.tensors[name] for one, weight in zip(sent, weights, strict=True)]).sum(0)
        for name in sent[0].tensors
    }
    return replace(_with_support(tensors, sent), messages=tuple(sent))


def _with_support(tensors: Tensors, sent: Sequence[Update]) -> Update:
    """Return the update of these tensors; an entry counts as sent if it was in any of the updates."""
    masks: dict[str, Bool[Tensor, " ..."]] = {}
    for name in tensors:
        found = [one.sent(name) for one in sent]
        if all(mask is not None for mask in found):
            masks[name] = torch.stack([mask for mask in found if mask is not None]).any(0)
    return Update(tensors, replace(sent[-1].coding, sparse=bool(masks)), masks or None)
