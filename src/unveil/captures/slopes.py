"""What the slope of a loss with respect to the logits says: whether it is the cross-entropy, its reduction, labels.

The slope of the cross-entropy of one picture is ``c (softmax(logits) - one_hot(label))``, with ``c = 1 / n`` for the
mean over n pictures and ``c = 1`` for the sum. This holds however the client's code writes its loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

AGREES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Relative difference up to which a slope is that of the cross-entropy, by type."""
HALF = 2e-2
"""The same for types of half precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss:
    """The cross-entropy of one batch.

    Args:
        labels: Class index of each picture.
        weight: The weight c of each picture in the loss; the same for all.
    """

    labels: Int[Tensor, " n"]
    weight: float


def loss_of(logits: Float[Tensor, " ..."], slope: Float[Tensor, " ..."]) -> Loss | None:
    """Return the cross-entropy whose slope this is; None if it is another loss, or the logits are not n x classes.

    Args:
        logits: The network's output.
        slope: The gradient of the loss with respect to it, of the same shape.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or slope.shape != logits.shape or not bool(slope.any()):
        return None
    found, values = slope.double().cpu(), logits.double().cpu()
    chances = values.softmax(dim=1)
    # Only the label's entry is negative. Where no slope is left, the network is certain of the label.
    labels = torch.where(found.any(dim=1), found.argmin(dim=1), chances.argmax(dim=1))
    unit = chances - torch.nn.functional.one_hot(labels, logits.shape[1])
    weight = float((found * unit).sum() / unit.square().sum().clamp_min(1e-300))
    agrees = AGREES.get(logits.dtype, HALF)
    if not weight > 0 or float((found - weight * unit).norm()) > agrees * float(found.norm()):
        return None
    return Loss(labels=labels, weight=weight)
