"""The loss that local training differentiates, with the settings that clients give it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unveil.core.errors import UsageError

Reduction = Literal["mean", "sum"]
"""Whether the loss of a local step is the mean or the sum over its pictures."""

LossName = Literal["cross_entropy", "bce", "mse"]
"""`cross_entropy` of a softmax; `bce`, one cross-entropy of a sigmoid for each class; `mse` of the scores."""

LOSSES: tuple[LossName, ...] = get_args(LossName)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss over the pictures of a local step, as PyTorch computes it.

    `cross_entropy` is `torch.nn.CrossEntropyLoss`. `bce` is `torch.nn.BCEWithLogitsLoss` and `mse` is
    `torch.nn.MSELoss`, both between the scores and one-hot labels; as there, their mean is over pictures and classes.

    Args:
        name: Which loss.
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1).
        reduction: The mean or the sum over the pictures.

    Raises:
        UsageError: A setting is none of these.

    Reference:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (label smoothing);
        Beyer et al., Are we done with ImageNet?, 2020 (a sigmoid for each class).
    """

    name: LossName = "cross_entropy"
    label_smoothing: float = 0.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"loss: expected 0 <= label_smoothing < 1, got {self.label_smoothing}; 0 switches it off")

    def __call__(self, logits: Float[Tensor, "n classes"], labels: Shaped[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            logits: One row for each picture.
            labels: Class indices, or rows of class probabilities.
        """
        if self.name == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction=self.reduction)
        wanted = targets(labels, logits.shape[1], label_smoothing=self.label_smoothing).to(logits)
        if self.name == "bce":
            return F.binary_cross_entropy_with_logits(logits, wanted, reduction=self.reduction)
        return F.mse_loss(logits, wanted, reduction=self.reduction)

    @property
    def mean(self) -> Loss:
        """The same loss as a mean over the pictures."""
        return replace(self, reduction="mean")

    def chance(self, classes: int) -> float:
        """Return the least mean loss of scores that are the same for all pictures, if classes are equally frequent."""
        if self.name == "cross_entropy":
            return math.log(classes)
        p = 1 / classes
        return -p * math.log(p) - (1 - p) * math.log1p(-p) if self.name == "bce" and classes > 1 else p * (1 - p)

    def slopes(self, scores: Float[Tensor, "*n classes"], labels: Int[Tensor, " _"]) -> Float[Tensor, "*n classes"]:
        """Return the slope of each picture's own loss in its scores; the mean over n pictures has 1/n of it.

        Args:
            scores: One row for each picture; more dimensions may stand before them.
            labels: Class indices.
        """
        classes = scores.shape[-1]
        wanted = targets(labels, classes, label_smoothing=self.label_smoothing).to(scores)
        if self.name == "cross_entropy":
            return scores.softmax(-1) - wanted
        share = 1.0 if self.reduction == "sum" else 1.0 / classes
        return (scores.sigmoid() - wanted if self.name == "bce" else 2 * (scores - wanted)) * share


def targets(
    labels: Shaped[Tensor, "n ..."], classes: int, *, label_smoothing: float = 0.0
) -> Float[Tensor, "n classes"]:
    """Return what a loss asks of each class, in [0, 1].

    Args:
        labels: Class indices, or rows of class probabilities.
        classes: Number of classes.
        label_smoothing: Share of each label that is spread evenly over all classes.
    """
    rows = F.one_hot(labels, classes) if labels.dim() == 1 else labels
    return rows * (1 - label_smoothing) + label_smoothing / classes


MEAN = Loss()
"""The mean over the pictures, without label smoothing."""
