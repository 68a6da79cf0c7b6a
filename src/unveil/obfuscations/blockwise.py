"""Block-wise quantisation to a table of levels, as federated-learning frameworks ship it for large models."""

from __future__ import annotations

from abc import ABC
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
from unveil.obfuscations.tables import DYNAMIC, FP4, NF4, bin_ends, nearest, table_penalty
from unveil.obfuscations.wire import recoded


class _Blockwise(ABC):
    """What the three types share: each entry becomes the nearest level times its block's largest magnitude.

    A subclass gives `levels` (ascending, -1 to 1), `bits` a value, and `block`, the entries that share a magnitude.
    """

    family: ClassVar[Family] = "quantise"
    is_deterministic: ClassVar[bool] = True
    levels: ClassVar[tuple[float, ...]]
    bits: ClassVar[int]
    block: int

    def __post_init__(self) -> None:
        usual = f"{type(self).block} is usual"
        whole(type(self).__name__, "block", self.block, 1, 1 << 24, usual)

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Quantise; see `Obfuscation`."""
        masks = update.masks()
        return recoded(
            update,
            each_group(update.tensors, "tensor", self._rounded, self.block, masks=masks),
            bits_per_value=self.bits,
            side_bits=32 * count_groups(update.tensors, "tensor", self.block, masks=masks),
            side={str(self): each_step(update.tensors, "tensor", _largest, self.block, masks=masks)},
            is_function=True,
        )

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Nothing inside the interval that was received, a growing penalty outside it; see `Obfuscation`."""
        penalty = partial(table_penalty, levels=self.levels)
        return stepped(received, penalty, self._scales(received), sent_only=sent_only)

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The rounding on the candidate's own blocks; see `Mapped`."""
        plain = {name: dense(value) for name, value in candidate.items()}
        fixed = {name: value.detach() for name, value in plain.items()}
        rounded = each_group(fixed, "tensor", self._rounded, self.block, masks=masks)
        moved = {name: rounded[name] - value for name, value in fixed.items()}
        return {n: v + (moved[n] * masks[n] if n in masks else moved[n]) for n, v in plain.items()}

    def reach(self, received: Update) -> Mapping[str, float]:
        """Half the widest gap between levels, in the largest block; see `Moving`."""
        gap = max(high - low for low, high in zip(self.levels, self.levels[1:], strict=False))
        scales = self._scales(received)
        return {name: gap / 2 * float(scale.amax()) if scale.numel() else 0.0 for name, scale in scales.items()}

    def knows_levels(self, received: Update) -> bool:
        """Whether the largest magnitudes travelled; see `Quantiser`."""
        return str(self) in received.side

    def bins(self, received: Update) -> dict[str, tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]]:
        """Half-way to the next levels; see `Binning`."""
        scales = self._scales(received)
        return {name: bin_ends(y, scales[name], self.levels) for name, y in received.tensors.items()}

    __str__ = spec_of

    def _scales(self, received: Update) -> Tensors:
        """The largest magnitudes that travelled, or else those that follow from the values received."""
        if self.knows_levels(received):
            return received.side[str(self)]
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
class Blockwise8(_Blockwise):
    """Round to one of 256 levels, dense near zero, of the largest magnitude in each block (dynamic quantisation).

    Behind a sparsifier, of the entries sent. Wire cost: 8 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 4096 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., 8-bit Optimizers via Block-wise Quantization, ICLR 2022.
    """

    name: ClassVar[str] = "blockwise8"
    levels: ClassVar[tuple[float, ...]] = DYNAMIC
    bits: ClassVar[int] = 8
    block: int = 4096

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class NormalFloat4(_Blockwise):
    """Round to one of 16 levels, quantiles of the normal distribution, of the largest magnitude in each block.

    Behind a sparsifier, of the entries sent. Wire cost: 4 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 64 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023.
    """

    name: ClassVar[str] = "nf4"
    levels: ClassVar[tuple[float, ...]] = NF4
    bits: ClassVar[int] = 4
    block: int = 64

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Float4(_Blockwise):
    """Round to one of 15 levels, floats of four bits, of the largest magnitude in each block.

    Behind a sparsifier, of the entries sent. Wire cost: 4 bits a value and 32 bits for each block.

    Args:
        block: Entries that share a largest magnitude, 1 to 2^24; 64 as shipped. The last block may be shorter.

    Reference:
        Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023 (beside `nf4`).
    """

    name: ClassVar[str] = "fp4"
    levels: ClassVar[tuple[float, ...]] = FP4
    bits: ClassVar[int] = 4
    block: int = 64

    __str__ = spec_of
