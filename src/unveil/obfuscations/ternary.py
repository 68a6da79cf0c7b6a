"""TernGrad: stochastic rounding to minus, zero and plus the largest magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from torch import Generator, Tensor

from unveil.core import Belief, Family, Misfit, Update
from unveil.errors import UsageError
from unveil.obfuscations.observation import penalised
from unveil.obfuscations.rounding import round_stochastically, rounded_belief, stochastic_penalty
from unveil.obfuscations.scope import each_group
from unveil.spec import spec_of


@dataclass(frozen=True, kw_only=True)
class Ternary:
    """Clip each tensor to a few of its standard deviations, then round at random to -m, 0 or m, its largest magnitude.

    Wire cost: log2 3 bits a value and 32 bits for each tensor's m.

    Args:
        clip: Standard deviations kept before rounding (2.5 as published); none for no clipping.

    Reference:
        Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning, NeurIPS 2017.
    """

    name: ClassVar[str] = "ternary"
    family: ClassVar[Family] = "quantise"
    clip: float | None = 2.5

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"Ternary: expected clip > 0, got {self.clip}; write clip=none for no clipping")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Ternarise; see `Obfuscation`."""

        def ternarise(rows: Tensor) -> Tensor:
            if self.clip is not None:
                bound = self.clip * rows.std(dim=1, correction=0, keepdim=True)
                rows = rows.clamp(-bound, bound)
            return round_stochastically(rows, rows.abs().amax(1, True), generator)

        coding = replace(
            update.coding,
            bits_per_value=1.0 if update.coding.sparse else math.log2(3),
            side_bits=update.coding.side_bits + 32 * len(update.tensors),
        )
        return Update(each_group(update.tensors, "tensor", ternarise), coding)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Log-likelihood of the rounding, blind to how far a clipped entry lies beyond the bound."""
        steps = {name: float(y.abs().max()) for name, y in received.tensors.items()}
        penalties = {name: partial(_clipped, step=step) for name, step in steps.items() if step > 0}
        return penalised(received, penalties, sent_only=sent_only)

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """As for QSGD with one level; see `Telling`."""
        matrices = {name: y for name, y in received.tensors.items() if y.dim() == 2}
        return {n: partial(rounded_belief, y, y.abs().max().expand_as(y)) for n, y in matrices.items()}

    @property
    def loses_scale(self) -> bool:
        """Entries beyond the bound are cut; see `Shrinking`."""
        return self.clip is not None

    __str__ = spec_of


def _clipped(x: Tensor, y: Tensor, step: float) -> Tensor:
    # Beyond the bound only the wrong sign counts: clamp towards y's side alone.
    beyond = (x * y.sign()).clamp(max=step) * y.sign()
    return stochastic_penalty(beyond.where(y != 0, x), y, step)
