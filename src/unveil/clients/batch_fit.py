"""How well a model fits its client's batch: loss and accuracy before the attack, beside what chance would give.

Labels that count other classes than the model's, a missing normalisation or weights that were not loaded all look like
an audit that works. The loss tells them from a trained model that knows its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.loss import Loss, LossName
from unveil.core.network import in_mode, run
from unveil.core.protocols import LocalTraining, loss_of


@dataclass(frozen=True, kw_only=True)
class BatchFit:
    """A model's scores on a batch.

    Args:
        loss: The client's loss, as a mean over the pictures and without label smoothing.
        hits: Number of pictures whose highest output is their label's.
        pictures: Number of pictures.
        outputs: Number of the model's outputs.
        name: Which loss it is.
    """

    loss: float
    hits: int
    pictures: int
    outputs: int
    name: LossName = "cross_entropy"

    @property
    def chance(self) -> float:
        """The loss of the best scores that are the same for every picture."""
        return Loss(name=self.name).chance(self.outputs)

    @property
    def is_chance(self) -> bool:
        """Whether the model knows no more of the batch than chance, by its loss or by its hits."""
        return self.loss >= self.chance or self.hits * self.outputs <= self.pictures

    @property
    def sentence(self) -> str:
        """The scores beside those of chance."""
        return (
            f"before the attack the model's loss on the batch is {self.loss:.2f} (chance {self.chance:.2f}), and "
            f"{self.hits} of {self.pictures} labels are its first guess (chance 1 in {self.outputs})"
        )


def batch_fit(model: Module, batch: Batch, training: LocalTraining) -> BatchFit:
    """Return how well a model fits a batch.

    Args:
        model: The model; it does not change.
        batch: The batch.
        training: The client's local training, which says the mode and the loss.

    Raises:
        UsageError: The model raised an error.
    """
    with torch.no_grad():
        logits = run(in_mode(model, training.mode), batch.images, {}, draws=0)
    name = loss_of(training).name
    return BatchFit(
        loss=float(Loss(name=name)(logits.float(), batch.labels)),
        hits=int((logits.argmax(1) == batch.labels).sum()),
        pictures=len(batch),
        outputs=logits.shape[1],
        name=name,
    )


def doubts(fit: BatchFit, *, is_own: bool, found: int, names: Sequence[str]) -> tuple[str, ...]:
    """Return what a reader must doubt of labels and weights, a sentence each.

    Args:
        fit: The scores.
        is_own: Whether the model is the user's own or has weights from a file: built-in ones are untrained.
        found: Number of classes in the source of the pictures.
        names: Name of each class of the model; empty if they were not given.
    """
    found_doubts = []
    if is_own and fit.is_chance:
        found_doubts.append(
            f"The model is no better than chance on the batch: {fit.sentence}. If it was trained, check its weights, "
            "normalise and class_names."
        )
    if is_own and not names and found < fit.outputs:
        found_doubts.append(
            f"The model has {fit.outputs} outputs and the pictures {found} classes, which were numbered from 0 in "
            "alphabetical order. If the model counts them otherwise, give class_names."
        )
    return tuple(found_doubts)
