"""Percentile sparsification: send only the entries above a percentile of all magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.core.errors import UsageError
from unveil.core.protocols import EntryModel, Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.groups import Scope, each_group
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.topk import TopK
from unveil.obfuscations.wire import chosen


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """Send the entries whose magnitude is at least a percentile of those of the whole update, and zero for the rest.

    The percentile is that of `numpy.percentile`, between two magnitudes as a rule. Unlike `topk`, it sends every one of
    several equal entries. Wire cost: for each entry sent its value and its position.

    Args:
        percent: The percentile, 0 to 100: 90 sends the largest 10 %, and 0 sends everything.

    Reference:
        Shokri and Shmatikov, Privacy-Preserving Deep Learning, CCS 2015 (the largest values are shared).
    """

    name: ClassVar[str] = "percentile"
    family: ClassVar[Family] = "sparsify"
    scope: ClassVar[Scope] = "update"
    is_deterministic: ClassVar[bool] = True
    percent: float

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise UsageError(
                f"Percentile: expected 0 <= percent <= 100, got {self.percent:g}; 90 sends the largest 10 %"
            )

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Sparsify; see `Obfuscation`."""
        return chosen(update, each_group(update.tensors, self.scope, self._keep, masks=update.masks()))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact, what was not is smaller than the smallest sent; see `Obfuscation`."""
        return self._largest.misfit(received, sent_only=sent_only)

    def unsent(self, received: Update, moved: Mapping[str, float] | None = None) -> Misfit:
        """The squared excess of entries not sent over the smallest one that was; see `TopK.unsent`."""
        return self._largest.unsent(received, moved)

    def entry_models(self, received: Update, moved: Mapping[str, float] | None = None) -> Mapping[str, EntryModel]:
        """What was sent is exact; of the rest, what is expected, brought below the threshold; see `HasEntryModels`."""
        return self._largest.entry_models(received, moved)

    def thresholds(self, received: Update, moved: Mapping[str, float] | None = None) -> dict[str, float]:
        """For each tensor a magnitude that no entry exceeds that was not sent."""
        return self._largest.thresholds(received, moved)

    @property
    def density(self) -> float:
        """Share of the entries sent, where no two are equal; see `Budgeted`."""
        return max(round(1 - self.percent / 100, 12), 1e-9)

    __str__ = spec_of

    @property
    def _largest(self) -> TopK:
        """What says the same of what was received: it goes by the smallest entry sent."""
        return TopK(density=self.density, scope=self.scope)

    def _keep(self, rows: Float[Tensor, "groups entries"]) -> Bool[Tensor, "groups entries"]:
        sizes = wide(rows.abs())
        place = Fraction(str(self.percent)) * (sizes.shape[1] - 1) / 100
        low, high = (sizes.kthvalue(end + 1, dim=1, keepdim=True).values for end in (floor(place), ceil(place)))
        return sizes >= low + (high - low) * float(place - floor(place))
