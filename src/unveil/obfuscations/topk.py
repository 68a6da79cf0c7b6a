"""Top-k sparsification: send only the largest entries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unveil.core import Belief, Block, Family, Misfit, Update
from unveil.errors import UsageError
from unveil.obfuscations.observation import added, penalised, squared
from unveil.obfuscations.scope import Scope, each_group
from unveil.spec import spec_of

UNSENT = 0.15  # weight of an entry that was not sent beside one that was, as an observation that it is small


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Send the entries of largest magnitude, ceil(density n) of them, and zero for the rest.

    Wire cost: for each entry sent its value and its position.

    Args:
        density: Share of the entries sent, in (0, 1].
        scope: The largest of each tensor, or of the whole update.

    Reference:
        Aji and Heafield, Sparse Communication for Distributed Gradient Descent, EMNLP 2017.
    """

    name: ClassVar[str] = "topk"
    family: ClassVar[Family] = "sparsify"
    density: float
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UsageError(f"TopK: expected 0 < density <= 1, got {self.density:g}; 0.05 sends the largest 5 %")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Sparsify; see `Obfuscation`."""

        def keep(rows: Tensor) -> Tensor:
            count = math.ceil(self.density * rows.shape[1])
            kept = rows.abs().topk(count, dim=1, sorted=False).indices
            return torch.zeros_like(rows).scatter_(1, kept, rows.gather(1, kept))

        return Update(each_group(update.tensors, self.scope, keep), replace(update.coding, sparse=True))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact, what was not is smaller than the smallest sent; see `Obfuscation`."""
        unit = _mean_square_sent(received)
        sent = squared(received, dict.fromkeys(received.tensors, 1 / unit), sent_only=True)
        return sent if sent_only else added(sent, self.unsent(received))

    def unsent(self, received: Update) -> Misfit:
        """The squared excess of entries not sent over the smallest one that was, in units of what was sent.

        In these units it stands beside the log-likelihood that a quantiser behind it gives to what was sent.
        """
        unit = _mean_square_sent(received)
        threshold = each_group(received.tensors, self.scope, _smallest_sent)
        penalties = {
            name: partial(_excess, threshold=float(t.reshape(-1)[0]), unit=unit) for name, t in threshold.items()
        }
        return penalised(received, penalties)

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """What was sent is exact; of the rest, what is expected, brought below the threshold; see `Telling`."""
        threshold = each_group(received.tensors, self.scope, _smallest_sent)
        return {
            name: partial(_believed, y, float(threshold[name].reshape(-1)[0]))
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    __str__ = spec_of


def _believed(received: Tensor, threshold: float, expected: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    y = received[block]
    sent = y != 0
    return torch.where(sent, y, expected.clamp(-threshold, threshold)), torch.where(sent, 1.0, UNSENT).to(y.dtype)


def _smallest_sent(rows: Tensor) -> Tensor:
    size = rows.abs()
    return torch.where(size > 0, size, torch.inf).amin(1, True)


def _mean_square_sent(received: Update) -> float:
    sent = sum(int(torch.count_nonzero(y)) for y in received.tensors.values())
    return float(torch.stack([y.square().sum() for y in received.tensors.values()]).sum()) / max(sent, 1) or 1.0


def _excess(x: Tensor, y: Tensor, threshold: float, unit: float) -> Tensor:
    return (x.abs() - threshold).clamp_min(0).square() / unit * (y == 0)
