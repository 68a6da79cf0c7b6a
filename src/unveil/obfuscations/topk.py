"""Top-k sparsification: send only the largest entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.core.bounds import share
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Block, Family
from unveil.core.update import Update
from unveil.obfuscations.groups import Scope, each_group, each_step
from unveil.obfuscations.likelihoods import added, in_own_units, penalised, size_sent, squared
from unveil.obfuscations.numerics import share_of, wide
from unveil.obfuscations.wire import UNSENT, chosen


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Send the entries of largest magnitude, ceil(density n) of the n that come in, and zero for the rest.

    Exactly that many: of equal ones some are sent, and zeros too where there are not enough others. Behind another
    sparsifier n is what that one sent. Wire cost: for each entry sent its value and its position.

    Args:
        density: Share of the entries sent, in (0, 1].
        scope: The largest of each tensor, or of the whole update.

    Reference:
        Aji and Heafield, Sparse Communication for Distributed Gradient Descent, EMNLP 2017.
    """

    name: ClassVar[str] = "topk"
    family: ClassVar[Family] = "sparsify"
    is_deterministic: ClassVar[bool] = True
    density: float
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        share("TopK", "density", self.density, "0.05 sends the largest 5 %")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Sparsify; see `Obfuscation`."""

        def keep(rows: Float[Tensor, "groups entries"]) -> Bool[Tensor, "groups entries"]:
            count = share_of(self.density, rows.shape[1])
            kept = rows.abs().topk(count, dim=1, sorted=False).indices
            return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, kept, True)

        return chosen(update, each_group(update.tensors, self.scope, keep, masks=update.masks()))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact, what was not is smaller than the smallest sent; see `Obfuscation`."""
        sent = squared(received, in_own_units(received), sent_only=True)
        return sent if sent_only else added(sent, self.unsent(received))

    def unsent(self, received: Update, moved: Mapping[str, float] | None = None) -> Misfit:
        """The squared excess of entries not sent over the smallest one that was, in units of what was sent.

        In these units it stands beside the log-likelihood that a quantiser behind it gives to what was sent.

        Args:
            received: What came out of the obfuscation.
            moved: How far other stages may have moved the entries of each tensor, since the smallest value received
                may be that much smaller than the smallest that was chosen; None for not at all.
        """
        excess = partial(_excess, unit=size_sent(received))
        thresholds = self.thresholds(received, moved)
        return penalised(received, {n: partial(excess, threshold=t) for n, t in thresholds.items()}, unsent_only=True)

    def entry_models(self, received: Update, moved: Mapping[str, float] | None = None) -> Mapping[str, EntryModel]:
        """What was sent is exact; of the rest, what is expected, brought below the threshold; see `HasEntryModels`."""
        thresholds = self.thresholds(received, moved)
        return {
            name: partial(_believed, y, received.sent(name), thresholds[name])
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    def thresholds(self, received: Update, moved: Mapping[str, float] | None = None) -> dict[str, float]:
        """For each tensor a magnitude that no entry exceeds that was not sent."""
        smallest = each_step(received.tensors, self.scope, _smallest, masks=received.masks())
        return {name: float(size) + (moved[name] if moved else 0.0) for name, size in smallest.items()}

    __str__ = spec_of


def _smallest(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
    return wide(rows.abs()).amin(1, True)


def _believed(
    received: Float[Tensor, "rows columns"],
    sent: Bool[Tensor, "rows columns"] | None,
    threshold: float,
    expected: Float[Tensor, "some few"],
    block: Block,
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    y = received[block]
    if sent is None:
        return y, torch.ones_like(y)
    mask = sent[block]
    return torch.where(mask, y, expected.clamp(-threshold, threshold)), torch.where(mask, 1.0, UNSENT).to(y.dtype)


def _excess(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *, threshold: float, unit: float
) -> Float[Tensor, "*shape"]:
    return ((x.abs() - threshold).clamp_min(0) / unit).square()
