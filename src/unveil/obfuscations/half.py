"""Sixteen-bit floats: what mixed-precision training and many message formats do by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import penalised
from unveil.obfuscations.numerics import narrowed, rms
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class FP16:
    """Send IEEE half precision; magnitudes above 65,504 are held there.

    Wire cost: 16 bits a value; behind a quantiser that needs fewer, the quantiser's.

    Reference:
        IEEE 754-2019, binary16.
    """

    name: ClassVar[str] = "fp16"
    family: ClassVar[Family] = "quantise"
    is_deterministic: ClassVar[bool] = True

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Cast there and back; see `Obfuscation`."""
        return _cast(update, torch.float16)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that rounds to the received value; see `Obfuscation`."""
        return _bins(received, torch.float16, sent_only)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half a unit in the last place of a usual entry; see `Moving`."""
        return _reach(received, torch.float16)

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class BF16:
    """Send bfloat16: the range of float32 with 8 bits of precision.

    Wire cost: 16 bits a value; behind a quantiser that needs fewer, the quantiser's.

    Reference:
        Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019.
    """

    name: ClassVar[str] = "bf16"
    family: ClassVar[Family] = "quantise"
    is_deterministic: ClassVar[bool] = True

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Cast there and back; see `Obfuscation`."""
        return _cast(update, torch.bfloat16)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that rounds to the received value; see `Obfuscation`."""
        return _bins(received, torch.bfloat16, sent_only)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half a unit in the last place of a usual entry; see `Moving`."""
        return _reach(received, torch.bfloat16)

    __str__ = spec_of


def _cast(update: Update, to: torch.dtype) -> Update:
    # Through float32: neither sixteen-bit type holds the other's largest value.
    exact = {n: t if t.dtype in (torch.float32, torch.float64) else t.float() for n, t in update.tensors.items()}
    tensors = {n: narrowed(narrowed(t, to).to(t.dtype), update.tensors[n].dtype) for n, t in exact.items()}
    return recoded(update, tensors, bits_per_value=16, is_function=True)


def _bins(received: Update, to: torch.dtype, sent_only: bool) -> Misfit:
    info = torch.finfo(to)
    absolute = max(info.smallest_normal * info.eps, torch.finfo(torch.float32).tiny) / 2
    penalty = partial(_outside, relative=info.eps / 2, absolute=absolute, largest=info.max)
    # In units of each tensor's own size, so that small tensors count as much as large ones.
    sizes = {name: rms(y) for name, y in received.tensors.items()}
    penalties = {name: partial(penalty, size=size) for name, size in sizes.items() if size > 0}
    return penalised(received, penalties, sent_only=sent_only)


def _outside(
    x: Float[Tensor, "*shape"],
    y: Float[Tensor, "*shape"],
    *,
    relative: float,
    absolute: float,
    largest: float,
    size: float,
) -> Float[Tensor, "*shape"]:
    room = (y.abs() * relative).clamp_min(absolute)
    # What was held at the largest value may have been any larger one.
    beyond = torch.where(y.abs() >= largest, (y - x) * y.sign(), (x - y).abs())
    return ((beyond - room).clamp_min(0) / size).square()


def _reach(received: Update, to: torch.dtype) -> dict[str, float]:
    return {name: torch.finfo(to).eps / 2 * rms(y) for name, y in received.tensors.items()}
