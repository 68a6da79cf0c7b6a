"""Uniform quantisation: round to the nearest of evenly spaced values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from unveil.core import Family, Misfit, Update
from unveil.errors import UsageError
from unveil.obfuscations.observation import penalised
from unveil.obfuscations.scope import Scope, count_groups, each_group
from unveil.spec import spec_of


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Round each entry to the nearest of 2^bits evenly spaced values; deterministic.

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

        def quantise(rows: Tensor) -> Tensor:
            step, origin = self._grid(rows)
            level = ((rows - origin) / torch.where(step > 0, step, 1.0)).round()
            return torch.where(step > 0, level * step + origin, rows)

        numbers = count_groups(update.tensors, self.scope) * (1 if self.range == "symmetric" else 2)
        coding = replace(update.coding, bits_per_value=self.bits, side_bits=update.coding.side_bits + 32 * numbers)
        return Update(each_group(update.tensors, self.scope, quantise), coding)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the bin that was received, a growing penalty outside it; see `Obfuscation`."""
        per_entry = each_group(received.tensors, self.scope, lambda rows: self._grid(rows)[0])
        steps = {name: float(step.reshape(-1)[0]) for name, step in per_entry.items()}
        penalties = {name: partial(bin_penalty, step=step) for name, step in steps.items() if step > 0}
        return penalised(received, penalties, sent_only=sent_only)

    __str__ = spec_of

    def _grid(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Step and origin of each group; the same before and after quantisation, as the extremes are levels."""
        if self.range == "symmetric":
            largest = rows.abs().amax(1, True)
            return largest / (2 ** (self.bits - 1) - 1), torch.zeros_like(largest)
        low, high = rows.amin(1, True), rows.amax(1, True)
        return (high - low) / (2**self.bits - 1), low


def bin_penalty(x: Tensor, y: Tensor, step: float) -> Tensor:
    """Squared distance, in steps, from the bin of half a step around the received value."""
    return ((x - y).abs() / step - 0.5).clamp_min(0).square()
