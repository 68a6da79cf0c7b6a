"""The loss that local training differentiates: cross-entropy, with the settings that clients give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Reduction = Literal["mean", "sum"]
"""Whether the loss of a local step is the mean or the sum over its pictures."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Cross-entropy over the pictures of a local step, as `torch.nn.CrossEntropyLoss` computes it.

    Args:
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1).
        reduction: The mean or the sum over the pictures.

    Reference:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (label smoothing).
    """

    label_smoothing: float = 0.0
    reduction: Reduction = "mean"

    def __call__(self, logits: Float[Tensor, "n classes"], labels: Shaped[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            logits: One row for each picture.
            labels: Class indices, or rows of class probabilities.
        """
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction=self.reduction)


def targets(labels: Int[Tensor, " n"], classes: int, *, label_smoothing: float = 0.0) -> Float[Tensor, "n classes"]:
    """Return the class probabilities that the loss asks for; its slope in the logits is the model's minus these."""
    return F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes


MEAN = Loss()
"""The mean over the pictures, without label smoothing."""
