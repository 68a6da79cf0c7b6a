"""Obfuscating what a client sends: the change of its weights is obfuscated, and weights are sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from unveil.captures.conversion import BUFFERS
from unveil.captures.naming import NUMBERED
from unveil.captures.recording import Arrays
from unveil.core.errors import UsageError
from unveil.core.protocols import BufferSetting, NeedsClient, Obfuscation
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


def check_settings(who: str, obfuscation: Obfuscation, *, seed: int | None, buffers: str) -> None:
    """Raise a `UsageError` if a federation cannot use these settings.

    Args:
        who: Name of the component for the message, such as `obfuscation_mod`.
        obfuscation: The obfuscation; one that needs the client's network and pictures is refused.
        seed: Seed of its randomness, at least 0; None for the system's entropy.
        buffers: What becomes of the network's buffers, one of `BufferSetting`.
    """
    if any(isinstance(stage, NeedsClient) for stage in getattr(obfuscation, "parts", (obfuscation,))):
        raise UsageError(f"{who}: {obfuscation} needs the client's network and pictures, which are not at hand here")
    if buffers not in get_args(BufferSetting):
        raise UsageError(f"{who}: expected buffers as one of {', '.join(get_args(BufferSetting))}")
    if seed is not None and seed < 0:
        raise UsageError(f"{who}: expected a seed of at least 0, got {seed}; leave it out in a federation")


def generator_for(seed: int | None, client: str, number: int | None) -> Generator:
    """Return the source of an obfuscation's randomness, another one for each client and round.

    Args:
        seed: The seed; None for the system's entropy.
        client: The client's name.
        number: Number of the round; None if it is not known.
    """
    generator = Generator()
    if seed is None:
        generator.seed()
        return generator
    entropy = [seed, -1 % 2**64 if number is None else number, *client.encode()]
    return generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


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
