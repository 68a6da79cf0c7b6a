"""What a stage makes of the wire: its own coding of the values, its side information, and which entries it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unveil.core.types import Tensors
from unveil.core.update import Coding, Update
from unveil.obfuscations.numerics import narrowed, wide

UNSENT = 0.15
"""Weight of an entry that was not sent beside one that was, as an observation that it is small."""


def recoded(
    update: Update,
    tensors: Tensors,
    *,
    bits_per_value: float | None,
    side_bits: float = 0.0,
    side: Mapping[str, Tensors] | None = None,
    is_function: bool = False,
) -> Update:
    """New values in a coding of their own: what earlier stages sent beside theirs is sent no more.

    Args:
        update: What came into the stage.
        tensors: What comes out, zero where nothing was sent.
        bits_per_value: Bits for each value; None for those of each tensor's own type.
        side_bits: Bits beside the values.
        side: The quantiser's levels, as `Update.side`.
        is_function: The new values are a function of the old ones, so that the receiver can work them out: the old
            coding stays where it is shorter.
    """
    old = update.coding
    coding = Coding(bits_per_value=bits_per_value, sparse=old.sparse, side_bits=side_bits)
    new = Update(tensors, coding, _support(update), side or {})
    if is_function and update.wire_bits <= new.wire_bits:
        return replace(new, coding=old, side=update.side, encoded=update.encoded)
    return new


def scaled(update: Update, factor: Float[Tensor, ""] | Mapping[str, float]) -> Update:
    """Every value times a factor, or each tensor's times its own; levels of a quantiser stay levels of it."""
    own = {n: factor[n] if isinstance(factor, Mapping) else float(factor) for n in update.tensors}
    return replace(
        update,
        tensors={name: narrowed(wide(t) * own[name], t.dtype) for name, t in update.tensors.items()},
        support=_support(update),
        side={stage: {n: step * own[n] for n, step in steps.items()} for stage, steps in update.side.items()},
    )


def chosen(update: Update, support: Mapping[str, Shaped[Tensor, " ..."]]) -> Update:
    """Only the entries of the support are sent from here on.

    Args:
        update: What came into the stage.
        support: Tensor name -> mask of the entries that are sent, among those that were sent before; a tensor without
            a mask is sent whole.
    """
    masks = {name: mask.bool() for name, mask in support.items()}
    tensors = {name: t.where(masks[name], 0.0) if name in masks else t for name, t in update.tensors.items()}
    coding = replace(update.coding, sparse=True)
    return replace(update, tensors=tensors, coding=coding, support=masks, encoded=None)


def _support(update: Update) -> Mapping[str, Bool[Tensor, " ..."]] | None:
    """The support, fixed: values of zero that come later were sent all the same."""
    return update.masks() if update.coding.sparse or update.support is not None else None
