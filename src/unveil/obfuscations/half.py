"""Sixteen-bit floats: what mixed-precision training and many message formats do by default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unveil.core import Family, Misfit, Update
from unveil.obfuscations.observation import penalised
from unveil.spec import spec_of


@dataclass(frozen=True, kw_only=True)
class FP16:
    """Send IEEE half precision; magnitudes above 65,504 are held there. Wire cost: 16 bits a value.

    Reference:
        IEEE 754-2019, binary16.
    """

    name: ClassVar[str] = "fp16"
    family: ClassVar[Family] = "quantise"

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Cast there and back; see `Obfuscation`."""
        return _cast(update, torch.float16)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that rounds to the received value; see `Obfuscation`."""
        return _bins(received, torch.float16, sent_only)

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class BF16:
    """Send bfloat16: the range of float32 with 8 bits of precision. Wire cost: 16 bits a value.

    Reference:
        Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019.
    """

    name: ClassVar[str] = "bf16"
    family: ClassVar[Family] = "quantise"

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Cast there and back; see `Obfuscation`."""
        return _cast(update, torch.bfloat16)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that rounds to the received value; see `Obfuscation`."""
        return _bins(received, torch.bfloat16, sent_only)

    __str__ = spec_of


def _cast(update: Update, to: torch.dtype) -> Update:
    largest = torch.finfo(to).max
    tensors = {name: t.clamp(-largest, largest).to(to).to(t.dtype) for name, t in update.tensors.items()}
    return Update(tensors, replace(update.coding, bits_per_value=16))


def _bins(received: Update, to: torch.dtype, sent_only: bool) -> Misfit:
    info = torch.finfo(to)
    penalty = partial(_outside, relative=info.eps / 2, absolute=info.smallest_normal * info.eps / 2)
    # In units of each tensor's own size, so that small tensors count as much as large ones.
    sizes = {name: float(y.square().mean().sqrt()) for name, y in received.tensors.items()}
    penalties = {name: partial(penalty, size=size) for name, size in sizes.items() if size > 0}
    return penalised(received, penalties, sent_only=sent_only)


def _outside(x: Tensor, y: Tensor, relative: float, absolute: float, size: float) -> Tensor:
    room = (y.abs() * relative).clamp_min(absolute)
    return (((x - y).abs() - room).clamp_min(0) / size).square()
