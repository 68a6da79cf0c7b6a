"""Random-k sparsification: send entries chosen by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.core.bounds import share
from unveil.core.factored import Candidate
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Block, Family
from unveil.core.update import Update
from unveil.obfuscations.draws import uniform_like
from unveil.obfuscations.groups import Scope, each_group
from unveil.obfuscations.likelihoods import in_own_units, squared
from unveil.obfuscations.numerics import HALVES, share_of
from unveil.obfuscations.wire import chosen, scaled


@dataclass(frozen=True, kw_only=True)
class RandomK:
    """Send ceil(density n) of the n entries that come in, chosen at random, and zero for the rest.

    Behind another sparsifier n is what that one sent. Wire cost: for each entry sent its value and its position (a
    shared seed would spare the positions).

    Args:
        density: Share of the entries sent, in (0, 1].
        unbiased: Multiply what is sent by n / ceil(density n), so that the mean is right.
        scope: Chosen within each tensor, or over the whole update.

    Reference:
        Stich, Cordonnier and Jaggi, Sparsified SGD with Memory, NeurIPS 2018.
    """

    name: ClassVar[str] = "randomk"
    family: ClassVar[Family] = "sparsify"
    chooses_by_chance: ClassVar[bool] = True
    density: float
    unbiased: bool = False
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        share("RandomK", "density", self.density, "0.05 sends 5 % of the entries")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Sparsify; see `Obfuscation`."""

        def keep(rows: Float[Tensor, "groups entries"]) -> Bool[Tensor, "groups entries"]:
            count = share_of(self.density, rows.shape[1])
            kept = uniform_like(rows, generator).topk(count, dim=1, sorted=False).indices
            return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, kept, True)

        sent = chosen(update, each_group(update.tensors, self.scope, keep, masks=update.masks()))
        sizes = {name: update.count_sent(name) for name in update.tensors}
        return scaled(sent, self.gains(sizes)) if self.unbiased else sent

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact; what was not says nothing; see `Obfuscation`."""
        explained = squared(received, in_own_units(received), sent_only=True)
        return lambda candidate: explained(self.rescale(candidate))

    def unsent(self, received: Update) -> Misfit:
        """Nothing: the choice did not depend on the values."""
        return _nothing

    def rescale(self, candidate: Candidate, sizes: Mapping[str, int] | None = None) -> Candidate:
        """What the gain that keeps the mean right does to a candidate's entries.

        Args:
            candidate: What comes in.
            sizes: How many entries of each tensor come in, where an earlier stage sent only some; None for all.
        """
        gains = self.gains(sizes or {name: value.shape.numel() for name, value in candidate.items()})
        if not self.unbiased:
            return candidate
        widened = {n: v.float() if isinstance(v, Tensor) and v.dtype in HALVES else v for n, v in candidate.items()}
        return {name: value * gains[name] for name, value in widened.items()}

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """What was sent is exact, what was not counts for nothing; see `HasEntryModels`."""
        gains = self.gains({name: y.numel() for name, y in received.tensors.items()})
        return {
            name: partial(_believed, y, received.sent(name), gains[name])
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    def gains(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """By what the entries sent of each tensor are multiplied; 1 unless `unbiased`."""
        whole = {name: sum(sizes.values()) if self.scope == "update" else size for name, size in sizes.items()}
        return {
            name: size / share_of(self.density, size) if self.unbiased and size else 1.0 for name, size in whole.items()
        }

    __str__ = spec_of


def _believed(
    received: Float[Tensor, "rows columns"],
    sent: Bool[Tensor, "rows columns"] | None,
    gain: float,
    expected: Float[Tensor, "some few"],
    block: Block,
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    y = received[block] / gain
    return y, torch.ones_like(y) if sent is None else sent[block].to(y.dtype)


def _nothing(candidate: Candidate) -> Float[Tensor, ""]:
    return torch.zeros(())
