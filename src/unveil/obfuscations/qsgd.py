"""QSGD: stochastic quantisation to a few levels of each tensor's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unveil.core import Belief, Family, Misfit, Update
from unveil.errors import UsageError
from unveil.obfuscations.observation import penalised
from unveil.obfuscations.rounding import round_stochastically, rounded_belief, stochastic_penalty
from unveil.obfuscations.scope import Scope, count_groups, each_group
from unveil.spec import spec_of


@dataclass(frozen=True, kw_only=True)
class QSGD:
    """Round each entry at random to one of the neighbouring multiples of norm / (levels - 1); unbiased.

    Wire cost: a sign and log2(levels) bits a value, and 32 bits for each norm.

    Args:
        levels: Magnitudes a value can take, zero included; at least 2.
        norm: What the levels divide: each group's L2 norm (as published) or its largest magnitude.
        bucket: Entries that share a norm; None for the whole group.
        scope: Norms for each tensor, or over the whole update.

    Reference:
        Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding, NeurIPS 2017.
    """

    name: ClassVar[str] = "qsgd"
    family: ClassVar[Family] = "quantise"
    levels: int
    norm: Literal["l2", "max"] = "l2"
    bucket: int | None = None
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UsageError(
                f"QSGD: expected levels >= 2, got {self.levels}; 2 sends only zero and plus or minus the norm"
            )
        if self.bucket is not None and self.bucket < 1:
            raise UsageError(f"QSGD: expected bucket >= 1, got {self.bucket}; leave it out for one norm a group")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""

        def quantise(rows: Tensor) -> Tensor:
            size = rows.abs().amax(1, True) if self.norm == "max" else rows.norm(dim=1, keepdim=True)
            return round_stochastically(rows, size / (self.levels - 1), generator)

        coding = replace(
            update.coding,
            bits_per_value=1 + math.ceil(math.log2(self.levels)),
            side_bits=update.coding.side_bits + 32 * count_groups(update.tensors, self.scope, self.bucket),
        )
        return Update(each_group(update.tensors, self.scope, quantise, self.bucket), coding)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Negative log-likelihood: a level is possible only for values within one step of it; see `Obfuscation`."""
        if self.bucket is None and self.scope == "tensor":
            steps = {name: float(self._step(y.reshape(1, -1))) for name, y in received.tensors.items()}
            penalties = {n: partial(stochastic_penalty, step=s) for n, s in steps.items() if s > 0}
            return penalised(received, penalties, sent_only=sent_only)
        per_entry = each_group(received.tensors, self.scope, self._step, self.bucket)
        return penalised(received, dict.fromkeys(received.tensors, stochastic_penalty), per_entry, sent_only=sent_only)

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """Rounding adds the variance ``f (1 - f) step^2`` at fraction f of a step; see `Telling`."""
        steps = each_group(received.tensors, self.scope, self._step, self.bucket)
        return {n: partial(rounded_belief, y, steps[n]) for n, y in received.tensors.items() if y.dim() == 2}

    __str__ = spec_of

    def _step(self, rows: Tensor) -> Tensor:
        """The step of each group, read off the received values themselves; zero where they are all zero."""
        size = rows.abs()
        if self.norm == "max":  # the largest entry always lands on the highest level
            return size.amax(1, True) / (self.levels - 1)
        smallest = torch.where(size > 0, size, torch.inf).amin(1, True)
        return torch.where(smallest.isfinite(), smallest, 0.0)
