"""Obfuscating what a client sends: the change of its weights is obfuscated, and weights are sent again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from unveil.captures.conversion import BUFFERS
from unveil.captures.naming import NUMBERED
from unveil.captures.recording import Arrays
from unveil.core.errors import UsageError
from unveil.core.protocols import BufferSetting, Obfuscation
from unveil.core.update import Update


def obfuscated_weights(
    before: Arrays,
    after: Arrays,
    obfuscation: Obfuscation,
    *,
    buffers: BufferSetting,
    generator: Generator,
    order: Sequence[str] = (),
) -> dict[str, Shaped[Tensor, " ..."]]:
    """Return the weights after local training as they are sent: those before, plus the obfuscated change.

    Args:
        before: The weights before local training, by name.
        after: The weights after it, which the client would send; the result has their order, shapes and types.
        obfuscation: The obfuscation of the parameters' change.
        buffers: What becomes of the network's buffers: `kept` sends their values before local training, `sent` those
            after it, `obfuscated` the values before and their change, obfuscated as an update of its own. Counters,
            which are whole numbers, are never obfuscated.
        generator: Source of the obfuscation's randomness.
        order: The names of the network's `state_dict`, if arrays are numbered; empty if they have their names.

    Raises:
        UsageError: An array has no value before local training, or a change is not finite, so that nothing is sent;
            or arrays are numbered, there are buffers among them, and the order does not say which.
    """
    for name, tensor in after.items():
        if name not in before or before[name].shape != tensor.shape:
            raise UsageError(
                f"obfuscation: the client sends {name!r}, and the server sent nothing of that name and shape, so its "
                "change is not known; send back what was received"
            )
    names = _names(after, order)
    floats = [name for name, tensor in after.items() if tensor.is_floating_point()]
    statistics = [name for name in floats if names[name].rpartition(".")[2] in BUFFERS]
    sent = dict(after)
    if buffers == "kept":
        rest = [name for name in after if name not in floats or name in statistics]
        sent |= {name: before[name].to(after[name].dtype) for name in rest}
    groups = [[name for name in floats if name not in statistics]]
    groups += [statistics] if buffers == "obfuscated" and statistics else []
    for group in groups:
        changes = Update({name: _wide(before[name]) - _wide(after[name]) for name in group})
        changes.check()
        received = obfuscation(changes, generator=generator).tensors
        sent |= {name: (_wide(before[name]) - received[name]).to(after[name].dtype) for name in group}
    return sent


def _names(arrays: Arrays, order: Sequence[str]) -> dict[str, str]:
    """Return the network's name of each array."""
    if not all(NUMBERED.fullmatch(name) for name in arrays):
        return {name: name for name in arrays}
    if order and len(order) != len(arrays):
        raise UsageError(f"obfuscation: the order has {len(order)} names for {len(arrays)} arrays; correct it")
    if not order and any(not tensor.is_floating_point() for tensor in arrays.values()):
        raise UsageError(
            "obfuscation: the arrays have numbers instead of names, and some are buffers; say which with "
            "order=list(Net().state_dict())"
        )
    return dict(zip(arrays, order or arrays, strict=True))


def _wide(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
