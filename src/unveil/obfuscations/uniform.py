"""Uniform quantisation: round to the nearest of evenly spaced values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, dense
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks, Scope, count_groups, each_group, each_step
from unveil.obfuscations.likelihoods import stepped
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Round each entry sent to the nearest of 2^bits evenly spaced values; deterministic.

    Wire cost: `bits` a value, and 32 bits (symmetric) or 64 bits (minmax) for each group's range.

    Args:
        bits: Bits a value, 2 to 16 (symmetric) or 1 to 16 (minmax).
        range: `symmetric`: from minus to plus the largest magnitude, with a level at zero (so 2^bits - 1 of them);
            `minmax`: from the smallest to the largest value.
        scope: A range for each tensor, or one for the whole update.

    Reference:
        Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        CVPR 2018.
    """

    name: ClassVar[str] = "uniform"
    family: ClassVar[Family] = "quantise"
    is_deterministic: ClassVar[bool] = True
    bits: int
    range: Literal["symmetric", "minmax"] = "symmetric"
    scope: Scope = "tensor"

    def __post_init__(self) -> None:
        least = 2 if self.range == "symmetric" else 1
        if not least <= self.bits <= 16:
            raise UsageError(
                f"Uniform: expected {least} <= bits <= 16 with range={self.range}, got {self.bits}; "
                "use sign for one bit around zero"
            )

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        masks = update.masks()
        numbers = count_groups(update.tensors, self.scope, masks=masks) * (1 if self.range == "symmetric" else 2)
        return recoded(
            update,
            each_group(update.tensors, self.scope, self._quantised, masks=masks),
            bits_per_value=self.bits,
            side_bits=32 * numbers,
            side={str(self): each_step(update.tensors, self.scope, self._step, masks=masks)},
            is_function=True,
        )

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the bin that was received, a growing penalty outside it; see `Obfuscation`."""
        return stepped(received, bin_penalty, self._steps(received), sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding, on the candidate's own range; see `Mapped`."""
        plain = {name: dense(value) for name, value in candidate.items()}
        rounded = each_group({n: v.detach() for n, v in plain.items()}, self.scope, self._quantised, masks=masks)
        moved = {n: rounded[n] - v.detach() for n, v in plain.items()}
        return {n: v + (moved[n] * masks[n] if n in masks else moved[n]) for n, v in plain.items()}

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half a step; see `Moving`."""
        return {name: float(step) / 2 for name, step in self._steps(received).items()}

    def knows_levels(self, received: Update) -> bool:
        """Whether its steps travelled; see `Quantiser`."""
        return str(self) in received.side

    def bins(self, received: Update) -> dict[str, tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]]:
        """Half a step to both sides; see `Binning`."""
        steps = {name: step.to(received.tensors[name].device) for name, step in self._steps(received).items()}
        return {name: (y - steps[name] / 2, y + steps[name] / 2) for name, y in received.tensors.items()}

    __str__ = spec_of

    def _quantised(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
        values = wide(rows)
        step, origin = self._grid(values)
        level = ((values - origin) / torch.where(step > 0, step, 1.0)).round()
        return torch.where(step > 0, level * step + origin, values)

    def _steps(self, received: Update) -> Tensors:
        """What travelled beside the values, or else what can be told from them: the extremes are levels."""
        if str(self) in received.side:
            return received.side[str(self)]
        return each_step(received.tensors, self.scope, self._step, masks=received.masks())

    def _step(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
        return self._grid(wide(rows))[0]

    def _grid(
        self, rows: Float[Tensor, "groups entries"]
    ) -> tuple[Float[Tensor, "groups 1"], Float[Tensor, "groups 1"]]:
        """Step and origin of each group."""
        if self.range == "symmetric":
            largest = rows.abs().amax(1, True)
            return largest / (2 ** (self.bits - 1) - 1), torch.zeros_like(largest)
        low, high = rows.amin(1, True), rows.amax(1, True)
        return (high - low) / (2**self.bits - 1), low


def bin_penalty(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], step: Float[Tensor, "*shape"] | float
) -> Float[Tensor, "*shape"]:
    """Squared distance, in steps, from the bin of half a step around the received value; 0 where no step is known."""
    known = torch.as_tensor(step > 0, dtype=x.dtype, device=x.device)
    return known * ((x - y).abs() / (step + (1 - known)) - 0.5).clamp_min(0).square()
