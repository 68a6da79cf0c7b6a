"""Block-wise quantisation to a table of levels, as federated-learning frameworks ship it for large models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.bounds import whole
from unveil.core.factored import Candidate, dense
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks, count_groups, each_group, each_step
from unveil.obfuscations.likelihoods import stepped
from unveil.obfuscations.numerics import wide
from unveil.obfuscations.tables import DYNAMIC, FP4, NF4, nearest, table_penalty
from unveil.obfuscations.wire import recoded


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What the three types share: levels, bits a value, entries a block, and the SPEC that names side information."""

    levels: tuple[float, ...]
    bits: int
    block: int
    spec: str

    def send(self, update: Update) -> Update:
        """Round each entry to the nearest level of its block's largest magnitude."""
        masks = update.masks()
        return recoded(
            update,
            each_group(update.tensors, "tensor", self._rounded, self.block, masks=masks),
            bits_per_value=self.bits,
            side_bits=32 * count_groups(update.tensors, "tensor", self.block, masks=masks),
            side={self.spec: each_step(update.tensors, "tensor", _largest, self.block, masks=masks)},
            is_function=True,
        )

    def misfit(self, received: Update, *, sent_only: bool) -> Misfit:
        """Nothing inside the interval of the received level, a growing penalty outside."""
        penalty = partial(table_penalty, levels=self.levels)
        return stepped(received, penalty, self.scales(received), sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding on the candidate's own blocks; slopes pass as if it were not there."""
        plain = {name: dense(value) for name, value in candidate.items()}
        fixed = {name: value.detach() for name, value in plain.items()}
        rounded = each_group(fixed, "tensor", self._rounded, self.block, masks=masks)
        moved = {name: rounded[name] - value for name, value in fixed.items()}
        return {n: v + (moved[n] * masks[n] if n in masks else moved[n]) for n, v in plain.items()}

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half the widest gap between levels, in the largest block."""
        gap = max(high - low for low, high in zip(self.levels, self.levels[1:], strict=False))
        scales = self.scales(received)
        return {name: gap / 2 * float(scale.amax()) if scale.numel() else 0.0 for name, scale in scales.items()}

    def scales(self, received: Update) -> Tensors:
        """The largest magnitudes that travelled, or else those that follow from the values received."""
        if self.spec in received.side:
            return received.side[self.spec]
        return each_step(received.tensors, "tensor", self._told, self.block, masks=received.masks())

    def _rounded(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups entries"]:
        values = wide(rows)
        return nearest(values, self.levels, _largest(values))

    def _told(self, rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
        """The largest magnitude was rounded to the highest level, or to the lowest, which may be nearer to zero."""
        values = wide(rows)
        low, high = values.amin(1, True) / self.levels[0], values.amax(1, True) / self.levels[-1]
        return low.maximum(high)


def _largest(rows: Float[Tensor, "groups entries"]) -> Float[Tensor, "groups 1"]:
    return wide(rows).abs().amax(1, True)


@dataclass(frozen=True, kw_only=True)
class Blockwise8:
    """Round to one of 256 levels, dense near zero, of the largest magnitude in each block (dynamic quantisation).

    Behind a sparsifier, of the entries sent. Wire cost: 8 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 4096 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022.
    """

    name: ClassVar[str] = "blockwise8"
    family: ClassVar[Family] = "quantise"
    block: int = 4096

    def __post_init__(self) -> None:
        whole("Blockwise8", "block", self.block, 1, 1 << 24, "4096 is usual")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        return self._table.send(update)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that was received, a growing penalty outside it; see `Obfuscation`."""
        return self._table.misfit(received, sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding; see `Mapped`."""
        return self._table.mapped(candidate, masks)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half the widest gap; see `Moving`."""
        return self._table.reach(received)

    __str__ = spec_of

    @property
    def _table(self) -> _Table:
        return _Table(levels=DYNAMIC, bits=8, block=self.block, spec=str(self))


@dataclass(frozen=True, kw_only=True)
class NormalFloat4:
    """Round to one of 16 levels, quantiles of the normal distribution, of the largest magnitude in each block.

    Behind a sparsifier, of the entries sent. Wire cost: 4 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 64 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023.
    """

    name: ClassVar[str] = "nf4"
    family: ClassVar[Family] = "quantise"
    block: int = 64

    def __post_init__(self) -> None:
        whole("NormalFloat4", "block", self.block, 1, 1 << 24, "64 is usual")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        return self._table.send(update)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that was received, a growing penalty outside it; see `Obfuscation`."""
        return self._table.misfit(received, sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding; see `Mapped`."""
        return self._table.mapped(candidate, masks)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half the widest gap; see `Moving`."""
        return self._table.reach(received)

    __str__ = spec_of

    @property
    def _table(self) -> _Table:
        return _Table(levels=NF4, bits=4, block=self.block, spec=str(self))


@dataclass(frozen=True, kw_only=True)
class Float4:
    """Round to one of 15 levels, floats of four bits, of the largest magnitude in each block.

    Behind a sparsifier, of the entries sent. Wire cost: 4 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 64 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023 (beside `nf4`).
    """

    name: ClassVar[str] = "fp4"
    family: ClassVar[Family] = "quantise"
    block: int = 64

    def __post_init__(self) -> None:
        whole("Float4", "block", self.block, 1, 1 << 24, "64 is usual")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        return self._table.send(update)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that was received, a growing penalty outside it; see `Obfuscation`."""
        return self._table.misfit(received, sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding; see `Mapped`."""
        return self._table.mapped(candidate, masks)

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half the widest gap; see `Moving`."""
        return self._table.reach(received)

    __str__ = spec_of

    @property
    def _table(self) -> _Table:
        return _Table(levels=FP4, bits=4, block=self.block, spec=str(self))
