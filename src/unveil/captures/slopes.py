"""What the slope of a loss with respect to the logits says: whether it is the cross-entropy, its reduction, labels.

The slope of the cross-entropy of one picture is ``c (softmax(logits) - target)``, with ``c = 1 / n`` for the mean over
n pictures and ``c = 1`` for the sum. The target is 1 at the label; label smoothing spreads a share of it over all
classes. This holds however the client's code writes its loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.core.loss import targets

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
        label_smoothing: Share of each label that is spread evenly over all classes, to four digits.
    """

    labels: Int[Tensor, " n"]
    weight: float
    label_smoothing: float = 0.0


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
    if weight > 0 and float((found - weight * unit).norm()) <= agrees * float(found.norm()):
        return Loss(labels=labels, weight=weight)
    smoothed = (_smoothed(chances, found, weight=weight) for weight in (1 / len(found), 1.0))
    return next((loss for loss in smoothed if loss is not None and _explains(loss, chances, found, agrees)), None)


def _smoothed(chances: Float[Tensor, "n classes"], slope: Float[Tensor, "n classes"], *, weight: float) -> Loss | None:
    """Return the loss of this weight that has the slope, with the label smoothing that its targets show."""
    wanted = chances - slope / weight
    # The target is 1 - s + s / classes at the label and s / classes elsewhere.
    share = 1 - float((wanted.amax(1) - (wanted.sum(1) - wanted.amax(1)) / (wanted.shape[1] - 1)).mean())
    if not 0 < share < 1:
        return None
    return Loss(labels=wanted.argmax(1), weight=weight, label_smoothing=float(f"{share:.4g}"))


def _explains(
    loss: Loss, chances: Float[Tensor, "n classes"], slope: Float[Tensor, "n classes"], agrees: float
) -> bool:
    wanted = targets(loss.labels, chances.shape[1], label_smoothing=loss.label_smoothing).to(chances)
    return float((slope - loss.weight * (chances - wanted)).norm()) <= agrees * float(slope.norm())
