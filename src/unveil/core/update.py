"""An update: the tensors that a client sends, and what they cost on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the arrays of an update are written on the wire.

    Args:
        bits_per_value: Bits for each value sent, 0 or more; None for those of each array's own type.
        sparse: Only some entries are sent, each with its position.
        side_bits: Bits sent once beside the values, for norms, scales and minima; the total over all arrays.
    """

    bits_per_value: float | None = None
    sparse: bool = False
    side_bits: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One named array on the wire.

    Args:
        name: The parameter's name, or that of a factor which the parameter is worked out from.
        entries: Entries of the array.
        values: Entries that are sent, 0 to `entries`.
        bits_per_value: Bits for each of them.
        index_bits: Bits for their positions: the cheaper of an index each and a bitmap, 0 where all entries are sent.
    """

    name: str
    entries: int
    values: int
    bits_per_value: float
    index_bits: int = 0

    @property
    def bits(self) -> float:
        """Size in bits, at most that of all entries written in full, for which an entry not sent is a third symbol."""
        if self.values == self.entries:
            return self.entries * self.bits_per_value
        full = self.entries * max(self.bits_per_value, math.log2(3))
        return min(self.values * self.bits_per_value + self.index_bits, full)


@dataclass(frozen=True)
class Update:
    """What travels from a client to the server, decoded to plain tensors.

    Args:
        tensors: One tensor a parameter.
        coding: How they were written on the wire.
        support: Tensor name -> which entries were sent, a mask of the tensor's shape; a tensor that is not named was
            sent whole. None: all entries, or with `coding.sparse` those that are not zero. Entries that were not sent
            are exactly zero; one that was sent may be zero too.
        side: What travels beside the values, by the stage that sent it (its SPEC): tensor name -> the distance of the
            quantiser's levels, a 0-dimensional tensor or one of the tensor's shape, in units of `tensors`.
        encoded: What travelled instead of the tensors, where the receiver works them out from other arrays, such as
            two thin factors. None: the tensors themselves travelled.
    """

    tensors: Tensors
    coding: Coding = field(default_factory=Coding)
    support: Mapping[str, Bool[Tensor, "*shape"]] | None = None
    side: Mapping[str, Tensors] = field(default_factory=dict)
    encoded: Update | None = None

    def sent(self, name: str) -> Bool[Tensor, "*shape"] | None:
        """Which entries of a tensor were sent; None stands for all of them."""
        if self.support is not None:
            return self.support.get(name)
        return self.tensors[name] != 0 if self.coding.sparse else None

    def masks(self) -> dict[str, Bool[Tensor, "*shape"]]:
        """Which entries were sent, for every tensor that was not sent whole."""
        found = {name: self.sent(name) for name in self.tensors}
        return {name: mask for name, mask in found.items() if mask is not None}

    def count_sent(self, name: str) -> int:
        """How many entries of a tensor were sent."""
        mask = self.sent(name)
        return self.tensors[name].numel() if mask is None else int(torch.count_nonzero(mask))

    @property
    def payload(self) -> tuple[Payload, ...]:
        """What is on the wire, an array each; without the side information, which `wire_bits` adds."""
        if self.encoded is not None:
            return self.encoded.payload
        found = []
        for name, tensor in self.tensors.items():
            size, bits = tensor.numel(), self.coding.bits_per_value
            sent = self.count_sent(name) if self.coding.sparse else size
            found.append(
                Payload(
                    name=name,
                    entries=size,
                    values=sent,
                    bits_per_value=8 * tensor.element_size() if bits is None else bits,
                    index_bits=min(sent * math.ceil(math.log2(max(size, 2))), size) if sent < size else 0,
                )
            )
        return tuple(found)

    @property
    def wire_bits(self) -> int:
        """Size on the wire in bits: values, positions and side information."""
        if self.encoded is not None:
            return self.encoded.wire_bits
        return math.ceil(sum((array.bits for array in self.payload), self.coding.side_bits))

    @property
    def is_zero(self) -> bool:
        """Whether every value sent is zero, or nothing was sent at all."""
        return not any(bool(tensor.any()) for tensor in self.tensors.values())

    def check(self) -> None:
        """Raise a `UsageError` that names the first tensor with a NaN or an infinity in it."""
        for name, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise UsageError(
                    f"update: tensor {name!r} holds NaN or infinite values, so nothing can be matched to it; "
                    "check the client's learning rate and input for overflow, or send a finite update"
                )
