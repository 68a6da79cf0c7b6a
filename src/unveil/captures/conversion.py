"""From a recorded update to unveil's own `Update`; the one place where signs are turned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import Module

from unveil.captures.recording import Arrays, Recording
from unveil.core.errors import UsageError
from unveil.core.files import quoted, shown
from unveil.core.types import Tensors
from unveil.core.update import BufferChanges, Update

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of BatchNorm's buffers, which tell them from parameters where the model is not given."""


def nameless_update_of(recording: Recording) -> Update:
    """Return what the server received as far as it can be told without the model: floats that no BatchNorm keeps.

    Args:
        recording: The recorded update.

    Raises:
        UsageError: Nothing is left.
    """
    tensors = {
        name: -change
        for name, change in recording.changes.items()
        if change.is_floating_point() and name.rpartition(".")[2] not in BUFFERS
    }
    if not tensors:
        raise UsageError(
            f"recorded update {shown(recording.path)}: it holds no floating-point tensor of parameters; record the "
            "client's weights, their change or the gradient"
        )
    return Update(tensors)


def update_of(recording: Recording, model: Module) -> Update:
    """Return what the server received, as unveil's clients send it.

    Parameters are weights before local training minus those after it, or a gradient, in the model's types. Buffers are
    values after it minus those before it.

    Args:
        recording: The recorded update; its names are those of the model.
        model: The client's network.

    Raises:
        UsageError: A recorded tensor is none of the model's, or has another shape.
    """
    own: Mapping[str, Tensor] = dict(model.named_parameters())
    buffers: Mapping[str, Tensor] = dict(model.named_buffers())
    who = f"recorded update {shown(recording.path)}"
    for name, change in recording.changes.items():
        known = own.get(name, buffers.get(name))
        if known is None:
            raise UsageError(f"{who}: {quoted(name, 60)} is no tensor of the model; name the client's own model")
        if change.shape != known.shape:
            shapes = f"{tuple(change.shape)}, and the model's has {tuple(known.shape)}"
            raise UsageError(f"{who}: {quoted(name, 60)} has shape {shapes}; name the client's own model")
    changed = {name: change for name, change in recording.changes.items() if name in buffers and bool(change.any())}
    moved = {name: change.to(buffers[name].dtype) for name, change in changed.items()}
    sent = {name: t for name, t in recording.changes.items() if name in own}
    return Update(
        {name: -sent[name].to(own[name].dtype) for name in own if name in sent},
        buffers=BufferChanges(
            statistics=Update({name: t for name, t in moved.items() if t.is_floating_point()}),
            counters={name: t for name, t in moved.items() if not t.is_floating_point()},
        )
        if moved
        else None,
    )


def floats(arrays: Arrays) -> Tensors:
    """Return the floating-point ones of recorded tensors."""
    return {name: tensor for name, tensor in arrays.items() if tensor.is_floating_point()}
