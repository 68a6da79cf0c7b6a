"""The received tensors as the evidence is read from them, with how far rounding may have moved each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.types import Tensors
from unveil.core.update import Update

FLOAT32 = 2.0**-24
"""Half a unit in the last place of float32, relative to the value."""

FLAT = 3.0  # zeros for each value one step from zero, where values are spread evenly about it
SEEN = 1.5  # a value that is larger than the rounding by this factor is not zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Received:
    """Values that arrived.

    Args:
        values: Name of a tensor -> its values, float64, of the tensor's shape.
        relative: How far rounding may have moved a value, relative to it: `FLOAT32`, or more behind half precision.
        absolute: Name of a tensor -> the same in units of the update, of the tensor's shape or 0-dimensional.
    """

    values: Tensors
    relative: float = FLOAT32
    absolute: Mapping[str, Float[Tensor, " ..."]]

    @classmethod
    def of(cls, update: Update, before: Tensors | None = None) -> Received:
        """Read the tensors of an update and nothing else: no levels, masks or codings that travelled beside them.

        Args:
            update: The received update.
            before: The weights before the round, where the update is the difference of recorded weights: the weights'
                own rounding is then in every entry. None for an update that was recorded itself.

        Raises:
            UsageError: The update holds no values, or some that are not finite.
        """
        update.check()
        values = {name: t.detach().cpu().double() for name, t in update.tensors.items() if t.numel()}
        if not values:
            raise UsageError("fingerprint: the update holds no values; give one with at least one tensor")
        zero = torch.zeros((), dtype=torch.float64)
        moved = {name: zero if before is None or name not in before else _ulp(before[name]) for name in values}
        return cls(values=values, absolute=moved)

    def behind(self, *, relative: float, absolute: float) -> Received:
        """The same values, where a later stage has rounded them: relative to each value, and by a fixed amount."""
        return replace(
            self,
            relative=max(self.relative, relative),
            absolute={name: moved.clamp_min(absolute) for name, moved in self.absolute.items()},
        )

    def only(self, names: list[str]) -> Received:
        """Some of the tensors."""
        return replace(self, values={n: self.values[n] for n in names}, absolute={n: self.absolute[n] for n in names})

    @cached_property
    def live(self) -> dict[str, Bool[Tensor, " ..."]]:
        """Which entries are not zero, by tensor."""
        return {name: t.abs() > SEEN * self.absolute[name] for name, t in self.values.items()}

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many entries are not zero, by tensor."""
        return {name: int(torch.count_nonzero(mask)) for name, mask in self.live.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many entries each tensor has."""
        return {name: t.numel() for name, t in self.values.items()}

    @cached_property
    def by_size(self) -> list[str]:
        """Names of the tensors with entries that are not zero, the largest first."""
        return sorted((n for n in self.values if self.counts[n]), key=lambda name: -self.sizes[name])

    @property
    def matrices(self) -> list[str]:
        """Names of tensors with two or more dimensions, the largest first."""
        return [name for name in self.by_size if self.values[name].dim() >= 2]

    @property
    def head(self) -> str | None:
        """The last Linear layer's weight, which is the last matrix with two rows or more; None without one."""
        found = [name for name, t in self.values.items() if t.dim() == 2 and t.shape[0] > 1 and self.counts[name]]
        return found[-1] if found else None

    def nonzero(self, name: str) -> Float[Tensor, " sent"]:
        """The values of a tensor that are not zero, in row-major order."""
        return self.values[name][self.live[name]]

    def rounding(self, name: str) -> Float[Tensor, " sent"]:
        """By how much each value of `nonzero` may be off, beside what is relative to it."""
        return self.absolute[name].expand_as(self.values[name])[self.live[name]]

    @cached_property
    def underflows(self) -> bool:
        """Whether half precision explains all zeros: enough values are the smallest that it holds."""
        zeros = sum(self.sizes.values()) - sum(self.counts.values())
        smallest = sum(int((self.nonzero(n).abs() < 2.5 * self.rounding(n)).sum()) for n in self.by_size)
        return 0 < zeros <= FLAT * smallest

    @property
    def norm(self) -> float:
        """L2 norm of the whole update."""
        return float(torch.stack([t.square().sum() for t in self.values.values()]).sum().sqrt())


def _ulp(weights: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A unit in the last place of float32 weights: the difference of two of them is off by no more."""
    size = weights.detach().cpu().float().abs()
    return (torch.nextafter(size, torch.full_like(size, torch.inf)) - size).double()
