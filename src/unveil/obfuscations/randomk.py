"""Random-k sparsification: send entries chosen by chance."""

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
from unveil.obfuscations.observation import squared
from unveil.obfuscations.scope import Scope, each_group, uniform_like
from unveil.spec import spec_of
from unveil.thin import Candidate, dense


@dataclass(frozen=True, kw_only=True)
class RandomK:
    """Send ceil(density n) entries chosen at random, and zero for the rest.

    Wire cost: for each entry sent its value and its position (a shared seed would spare the positions).

    Args:
        density: Share of the entries sent, in (0, 1].
        unbiased: Multiply what is sent by n / ceil(density n), so that the mean is right.
        scope: Chosen within each tensor, or over the whole update.

    Reference:
        Stich, Cordonnier and Jaggi, Sparsified SGD with Memory, NeurIPS 2018.
    """

    name: ClassVar[str] = "randomk"
    family: ClassVar[Family] = "sparsify"
    density: float
    unbiased: bool = False
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UsageError(f"RandomK: expected 0 < density <= 1, got {self.density:g}; 0.05 sends 5 % of the entries")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Sparsify; see `Obfuscation`."""

        def keep(rows: Tensor) -> Tensor:
            count = math.ceil(self.density * rows.shape[1])
            gain = rows.shape[1] / count if self.unbiased else 1.0
            kept = uniform_like(rows, generator).topk(count, dim=1, sorted=False).indices
            return torch.zeros_like(rows).scatter_(1, kept, rows.gather(1, kept) * gain)

        return Update(each_group(update.tensors, self.scope, keep), replace(update.coding, sparse=True))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact; what was not says nothing; see `Obfuscation`."""
        explained = squared(received, sent_only=True)
        return lambda candidate: explained(self.rescale(candidate))

    def unsent(self, received: Update) -> Misfit:
        """Nothing: the choice did not depend on the values."""
        return _nothing

    def rescale(self, candidate: Candidate) -> Candidate:
        """What the gain that keeps the mean right does to a candidate's entries."""
        if not self.unbiased:
            return candidate
        sizes = {name: value.shape.numel() for name, value in candidate.items()}
        if self.scope == "update":
            sizes = dict.fromkeys(sizes, sum(sizes.values()))
        return {n: v * (sizes[n] / math.ceil(self.density * sizes[n])) for n, v in candidate.items()}

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """What was sent is exact, what was not counts for nothing; see `Telling`."""
        gains = self.rescale({name: torch.ones(()).expand(y.shape) for name, y in received.tensors.items()})
        return {
            name: partial(_believed, y / float(dense(gains[name]).flatten()[0]))
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    __str__ = spec_of


def _believed(received: Tensor, expected: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    y = received[block]
    return y, (y != 0).to(y.dtype)


def _nothing(candidate: Candidate) -> Tensor:
    return torch.zeros(())
