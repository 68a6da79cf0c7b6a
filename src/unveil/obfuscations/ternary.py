"""TernGrad: stochastic rounding to minus, zero and plus the largest magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import positive
from unveil.core.factored import Candidate, dense
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks, count_groups, each_group, each_step
from unveil.obfuscations.likelihoods import stepped
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.stochastic_rounding import round_stochastically, rounded_belief, stochastic_penalty
from unveil.obfuscations.variances import Variance
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class Ternary:
    """Clip each tensor to a few of its standard deviations, then round at random to -m, 0 or m, its largest magnitude.

    Behind a sparsifier, of the entries sent. Wire cost: log2 3 bits a value and 32 bits for each tensor's m.

    Args:
        clip: Standard deviations kept before rounding (2.5 as published); none for no clipping. A tensor whose entries
            are all equal has none, and is not clipped.

    Reference:
        Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning, NeurIPS 2017.
    """

    name: ClassVar[str] = "ternary"
    family: ClassVar[Family] = "quantise"
    clip: float | None = 2.5

    def __post_init__(self) -> None:
        if self.clip is not None:
            positive("Ternary", "clip", self.clip, "write clip=none for no clipping")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Ternarise; see `Obfuscation`."""
        masks = update.masks()

        def ternarise(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
            values = self._clipped(wide(rows))
            return round_stochastically(values, values.abs().amax(1, True), generator, dtype=rows.dtype)

        def largest(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
            return self._clipped(wide(rows)).abs().amax(1, True)

        return recoded(
            update,
            each_group(update.tensors, "tensor", ternarise, masks=masks),
            bits_per_value=math.log2(3),
            side_bits=32 * count_groups(update.tensors, "tensor", masks=masks),
            side={str(self): each_step(update.tensors, "tensor", largest, masks=masks)},
        )

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Log-likelihood of the rounding, blind to how far a clipped entry lies beyond the bound."""
        return stepped(received, _bounded_penalty, self._steps(received), sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The clipping; see `Mapped`."""
        if self.clip is None:
            return candidate
        plain = {name: dense(value) for name, value in candidate.items()}
        clipped = each_group(plain, "tensor", self._clipped, masks=masks)
        return {n: clipped[n].where(masks[n], value) if n in masks else clipped[n] for n, value in plain.items()}

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """As for QSGD with one level; see `HasEntryModels`."""
        steps = self._steps(received)
        return {n: partial(rounded_belief, y, steps[n]) for n, y in received.tensors.items() if y.dim() == 2}

    def reach(self, received: Update) -> Mapping[str, float]:
        """At most m; see `Moving`."""
        return {name: float(step) for name, step in self._steps(received).items()}

    @property
    def scale_unknown(self) -> bool:
        """Entries beyond the bound are cut; see `MayRescale`."""
        return self.clip is not None

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """That of stochastic rounding, its mean where later stages blurred the levels; see `Varying`."""
        found = {name: Variance(step=step) for name, step in self._steps(received).items()}
        return found if self.knows_levels(received) else {n: Variance(constant=one.mean) for n, one in found.items()}

    def knows_levels(self, received: Update) -> bool:
        """Whether its steps travelled; see `Quantiser`."""
        return str(self) in received.side

    __str__ = spec_of

    def _clipped(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
        if self.clip is None:
            return rows
        bound = self.clip * rows.std(dim=1, correction=0, keepdim=True)
        bound = torch.where(bound > 0, bound, torch.inf)
        return rows.clamp(-bound, bound)

    def _steps(self, received: Update) -> Tensors:
        """What travelled beside the values, or else the largest of them."""
        if str(self) in received.side:
            return received.side[str(self)]
        return each_step(
            received.tensors, "tensor", lambda rows: wide(rows).abs().amax(1, True), masks=received.masks()
        )


def _bounded_penalty(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], step: Float[Tensor, "*#shape"] | float
) -> Float[Tensor, "*shape"]:
    # Beyond the bound only the wrong sign counts: clamp towards y's side alone.
    beyond = (x * y.sign()).clamp(max=step) * y.sign()
    return stochastic_penalty(beyond.where(y != 0, x), y, step)
