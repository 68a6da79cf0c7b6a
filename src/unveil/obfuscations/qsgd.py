"""QSGD: stochastic quantisation to a few levels of each tensor's norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import whole
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Scope, count_groups, each_group, each_step
from unveil.obfuscations.lattice import step_of_norm
from unveil.obfuscations.likelihoods import stepped
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.stochastic_rounding import round_stochastically, rounded_belief, stochastic_penalty
from unveil.obfuscations.variances import Variance
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class QSGD:
    """Round each entry at random to one of the neighbouring multiples of norm / (levels - 1); unbiased.

    Wire cost: a sign and log2(levels) bits a value, and 32 bits for each norm.

    Args:
        levels: Magnitudes a value can take, zero included; 2 to 2^24.
        norm: What the levels divide: each group's L2 norm (as published) or its largest magnitude.
        bucket: Entries that share a norm, 1 to 2^24; the last bucket may be shorter. None for the whole group.
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
        whole("QSGD", "levels", self.levels, 2, 1 << 24, "2 sends only zero and plus or minus the norm")
        if self.bucket is not None:
            whole("QSGD", "bucket", self.bucket, 1, 1 << 24, "leave it out for one norm a group")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        masks = update.masks()

        def quantise(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
            values = wide(rows)
            # A short last bucket draws as many numbers as a full one, so that the next tensor's do not shift.
            return round_stochastically(values, self._sent_step(values), generator, dtype=rows.dtype, drawn=self.bucket)

        tensors = each_group(update.tensors, self.scope, quantise, self.bucket, masks=masks)
        steps = each_step(update.tensors, self.scope, self._sent_step, self.bucket, masks=masks)
        return recoded(
            update,
            tensors,
            bits_per_value=1 + math.ceil(math.log2(self.levels)),
            side_bits=32 * count_groups(update.tensors, self.scope, self.bucket, masks=masks),
            side={str(self): steps},
        )

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Negative log-likelihood: a level is possible only for values within one step of it; see `Obfuscation`."""
        return stepped(received, stochastic_penalty, self._steps(received), sent_only=sent_only)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Rounding adds the variance ``f (1 - f) step^2`` at fraction f of a step; see `HasEntryModels`."""
        steps = self._steps(received)
        return {n: partial(rounded_belief, y, steps[n]) for n, y in received.tensors.items() if y.dim() == 2}

    def reach(self, received: Update) -> Mapping[str, float]:
        """At most a step; see `Moving`."""
        return {name: float(step.amax()) if step.numel() else 0.0 for name, step in self._steps(received).items()}

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """That of stochastic rounding, its mean where later stages blurred the levels; see `Varying`."""
        found = {name: Variance(step=step) for name, step in self._steps(received).items()}
        return found if self.knows_levels(received) else {n: Variance(constant=one.mean) for n, one in found.items()}

    def knows_levels(self, received: Update) -> bool:
        """Whether its steps travelled; see `Quantiser`."""
        return str(self) in received.side

    __str__ = spec_of

    def _steps(self, received: Update) -> Tensors:
        """What travelled beside the values, or else what can be told from them."""
        if str(self) in received.side:
            return received.side[str(self)]
        return each_step(received.tensors, self.scope, self._step, self.bucket, masks=received.masks())

    def _sent_step(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
        """The step of each group of values before they are rounded."""
        values = wide(rows)
        size = values.abs().amax(1, True) if self.norm == "max" else values.norm(dim=1, keepdim=True)
        return size / (self.levels - 1)

    def _step(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
        """The step of each group, worked out from received values alone; zero where they are all zero."""
        if self.norm == "max":  # the largest entry always lands on the highest level
            return wide(rows.abs()).amax(1, True) / (self.levels - 1)
        return step_of_norm(rows, self.levels - 1)
