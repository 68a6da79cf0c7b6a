"""Clamping of every entry to a largest magnitude."""

from __future__ import annotations

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
from unveil.core.types import Block, Family
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks
from unveil.obfuscations.likelihoods import penalised, size_sent
from unveil.obfuscations.numerics import narrowed, wide
from unveil.obfuscations.wire import recoded

NEARLY = 1 - 1e-3
"""Share of the limit from which an entry counts as clamped: differences of recorded weights are rounded."""


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """Bring every entry whose magnitude is above a limit to the limit, with its sign.

    Wire cost: 32 bits a value; behind a quantiser that needs fewer, the quantiser's.

    Args:
        limit: The largest magnitude sent; greater than 0.

    Reference:
        Shokri and Shmatikov, Privacy-Preserving Deep Learning, CCS 2015 (the bound gamma of a shared gradient).
    """

    name: ClassVar[str] = "clamp"
    family: ClassVar[Family] = "perturb"
    is_deterministic: ClassVar[bool] = True
    limit: float

    def __post_init__(self) -> None:
        positive("Clamp", "limit", self.limit, "use a high percentile of the magnitudes of real updates")

    @property
    def largest_entry(self) -> float:
        """The limit; see `BoundsEntries`."""
        return self.limit

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Clamp; see `Obfuscation`."""
        held = {name: wide(t).clamp(-self.limit, self.limit) for name, t in update.tensors.items()}
        tensors = {name: narrowed(t, update.tensors[name].dtype) for name, t in held.items()}
        return recoded(update, tensors, bits_per_value=None, is_function=True)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Squared error; of an entry at the limit, only how far the candidate is below it; see `Obfuscation`."""
        penalty = partial(_below, limit=self.limit, unit=size_sent(received))
        return penalised(received, dict.fromkeys(received.tensors, penalty), sent_only=sent_only)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Exact below the limit; at it, what is expected if that is beyond the limit; see `HasEntryModels`."""
        return {
            name: partial(_believed, y, self.limit * NEARLY) for name, y in received.tensors.items() if y.dim() == 2
        }

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The candidate clamped, without slope where it is beyond the limit; see `Mapped`."""
        plain = {name: dense(value) for name, value in candidate.items()}
        held = {name: value.clamp(-self.limit, self.limit) for name, value in plain.items()}
        return {n: torch.where(masks[n], held[n], value) if n in masks else held[n] for n, value in plain.items()}

    def reach(self, received: Update) -> Mapping[str, float]:
        """Nothing: entries below the limit stay, and those beyond it are clamped in the candidate too; see `Moving`."""
        return dict.fromkeys(received.tensors, 0.0)

    __str__ = spec_of


def _below(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, limit: float, unit: float
) -> Float[Tensor, "*shape"]:
    # Of an entry at the limit it is only known that it was at least as large.
    off = torch.where(y.abs() >= limit * NEARLY, ((y - x) * y.sign()).clamp_min(0), x - y)
    return (off / unit).square()


def _believed(
    received: Float[Tensor, "rows columns"], limit: float, expected: Float[Tensor, "some few"], block: Block
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    y = received[block]
    beyond = torch.where(y > 0, expected.maximum(y), expected.minimum(y))
    return torch.where(y.abs() >= limit, beyond, y), torch.ones_like(y)
