"""An update: the tensors that a client sends, and their size on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unveil.core.errors import UnattackableError
from unveil.core.types import Tensors

CHECKED = 1 << 18  # entries that are checked at a time: what is made of them stays in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the arrays of an update are written on the wire.

    Args:
        bits_per_value: Bits for each sent value, 0 or more; None for the size of each array's own type.
        sparse: Only some entries are sent, each with its position.
        side_bits: Bits sent beside the values, for norms, scales and minima; the total over all arrays.
    """

    bits_per_value: float | None = None
    sparse: bool = False
    side_bits: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One named array on the wire.

    Args:
        name: The name of the parameter, or of a factor from which the parameter is computed.
        entries: Number of entries of the array.
        values: Number of entries that are sent, 0 to `entries`.
        bits_per_value: Bits for each sent entry.
        index_bits: Bits for the positions of all sent entries: an index for each or a bitmap, whichever is smaller; 0
            if all entries are sent.
    """

    name: str
    entries: int
    values: int
    bits_per_value: float
    index_bits: int = 0

    @property
    def bits(self) -> float:
        """Size in bits of values and positions.

        It is at most the size of all entries in full, with at least log2(3) bits for each: two values and "not sent".
        """
        if self.values == self.entries:
            return self.entries * self.bits_per_value
        full = self.entries * max(self.bits_per_value, math.log2(3))
        return min(self.values * self.bits_per_value + self.index_bits, full)


@dataclass(frozen=True)
class Update:
    """The tensors that a client sends to the server, in the form that the server decodes.

    Args:
        tensors: Parameter name -> tensor.
        coding: How the tensors were written on the wire.
        support: Tensor name -> which entries were sent, a mask of the tensor's shape; a tensor without a mask was sent
            whole. None: all entries were sent, or with `coding.sparse` those that are not zero. An entry that was not
            sent is exactly zero; a sent one may be zero too.
        side: SPEC of the stage that sent side information -> tensor name -> the distance between the quantiser's
            levels, a 0-dimensional tensor or one of the tensor's shape, in units of `tensors`.
        encoded: The arrays that were sent instead, if the server computes the tensors from other arrays, such as two
            thin factors. None: the tensors themselves were sent.
        buffers: What local training did to the network's buffers; None if the client keeps them.
        rounds: What the client sent in each of several rounds, of which `tensors` are the mean; empty for one round.
        messages: What each client of a cohort sent, of which `tensors` are the weighted mean; empty for one message.
            The server sees the mean alone.
    """

    tensors: Tensors
    coding: Coding = field(default_factory=Coding)
    support: Mapping[str, Bool[Tensor, "*shape"]] | None = None
    side: Mapping[str, Tensors] = field(default_factory=dict)
    encoded: Update | None = None
    buffers: BufferChanges | None = None
    rounds: tuple[Update, ...] = ()
    messages: tuple[Update, ...] = ()

    def sent(self, name: str) -> Bool[Tensor, "*shape"] | None:
        """Return the mask of a tensor's sent entries; None if all were sent."""
        if self.support is not None:
            return self.support.get(name)
        return self.tensors[name] != 0 if self.coding.sparse else None

    def masks(self) -> dict[str, Bool[Tensor, "*shape"]]:
        """Return the masks of sent entries by name, for every tensor that was not sent whole."""
        found = {name: self.sent(name) for name in self.tensors}
        return {name: mask for name, mask in found.items() if mask is not None}

    def count_sent(self, name: str) -> int:
        """Return the number of sent entries of a tensor."""
        mask = self.sent(name)
        return self.tensors[name].numel() if mask is None else int(torch.count_nonzero(mask))

    @property
    def payload(self) -> tuple[Payload, ...]:
        """The arrays on the wire, buffers last, without the side information, which `wire_bits` adds."""
        buffers = () if self.buffers is None else self.buffers.payload
        if self.encoded is not None:
            return self.encoded.payload + buffers
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
        return tuple(found) + buffers

    @property
    def wire_bits(self) -> int:
        """Size on the wire in bits: values, positions, side information and buffers, of all rounds and messages."""
        if several := self.rounds or self.messages:
            return sum(one.wire_bits for one in several)
        buffers = 0 if self.buffers is None else self.buffers.wire_bits
        if self.encoded is not None:
            return self.encoded.wire_bits + buffers
        own = replace(self, buffers=None).payload
        return math.ceil(sum((array.bits for array in own), self.coding.side_bits)) + buffers

    @property
    def in_full(self) -> Update:
        """The same tensors and buffers with every entry written in full."""
        buffers = self.buffers and replace(self.buffers, statistics=Update(self.buffers.statistics.tensors))
        rounds, messages = (tuple(one.in_full for one in several) for several in (self.rounds, self.messages))
        return Update(self.tensors, buffers=buffers, rounds=rounds, messages=messages)

    @property
    def is_zero(self) -> bool:
        """Whether every sent value of the parameters is zero, or nothing was sent at all."""
        return not any(bool(tensor.any()) for tensor in self.tensors.values())

    def check(self) -> None:
        """Raise `UnattackableError` that names the first tensor with a NaN or an infinity, if there is one."""
        statistics = {} if self.buffers is None else self.buffers.statistics.tensors
        for name, tensor in [*self.tensors.items(), *statistics.items()]:
            if not all(bool(torch.isfinite(some).all()) for some in torch.split(tensor.reshape(-1), CHECKED)):
                raise UnattackableError(
                    f"update: tensor {name!r} holds NaN or infinite values, so nothing can be matched to it; "
                    "check the client's learning rate and input for overflow, or send a finite update"
                )


@dataclass(frozen=True, kw_only=True)
class BufferChanges:
    """What local training did to a network's buffers: their values after it minus those before it.

    Only buffers of the network's `state_dict` that changed are in it. BatchNorm in train mode has two statistics,
    `running_mean` and `running_var`, and a counter, `num_batches_tracked`.

    Args:
        statistics: The changes of floating-point buffers, an update of their own, which may be obfuscated.
        counters: The changes of integer buffers, in their own type; they are sent exactly.
    """

    statistics: Update
    counters: Mapping[str, Int[Tensor, " ..."]] = field(default_factory=dict)

    @property
    def payload(self) -> tuple[Payload, ...]:
        """The arrays on the wire; see `Update.payload`."""
        exact = [
            Payload(name=name, entries=t.numel(), values=t.numel(), bits_per_value=8 * t.element_size())
            for name, t in self.counters.items()
        ]
        return (*self.statistics.payload, *exact)

    @property
    def wire_bits(self) -> int:
        """Size on the wire in bits; see `Update.wire_bits`."""
        exact = sum(8 * t.element_size() * t.numel() for t in self.counters.values())
        return self.statistics.wire_bits + exact
