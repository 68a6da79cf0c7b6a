"""The names of a recorded update's tensors: legacy clients number their arrays, and wrappers add a prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.nn import Module

from unveil.captures.recording import Arrays, Recording
from unveil.core.errors import UsageError
from unveil.core.files import shown

NUMBERED = re.compile(r"(arr_)?[0-9]+")
"""Names of arrays that were sent as a list; `arr_` is NumPy's."""


def named_as(recording: Recording, model: Module) -> Recording:
    """Return the recorded update with the names of a model.

    Numbered arrays are taken in their order: for the whole `state_dict`, or for the parameters alone. A prefix that
    all names have, such as `module.`, is taken away. Other names stay as they are.

    Args:
        recording: The recorded update.
        model: The client's network.

    Raises:
        UsageError: There are as many numbered arrays as neither the `state_dict` nor the parameters have.
    """
    state, parameters = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    sent = recording.manifest.order
    if all(NUMBERED.fullmatch(name) for name in sent) and not set(sent) <= set(state):
        own = {len(parameters): parameters, len(state): state}.get(len(sent))
        if own is None:
            raise UsageError(
                f"recorded update {shown(recording.path)}: it has {len(sent)} numbered arrays, and the model has "
                f"{len(state)} tensors, {len(parameters)} of them parameters; name the client's own model"
            )
        return _renamed(recording, dict(zip(sent, own, strict=True)))
    prefix = _prefix(sent, state)
    return _renamed(recording, {name: name.removeprefix(prefix) for name in (*sent, *recording.before)})


def _prefix(sent: Sequence[str], own: Sequence[str]) -> str:
    """Return what stands before the model's names in all sent names; empty if nothing does."""
    if set(sent) <= set(own):
        return ""
    ends = (name for name in own if sent[0].endswith(f".{name}"))
    prefixes = (sent[0].removesuffix(name) for name in ends)
    return next((p for p in prefixes if all(n.startswith(p) and n.removeprefix(p) in own for n in sent)), "")


def _renamed(recording: Recording, names: Mapping[str, str]) -> Recording:
    def part(arrays: Arrays) -> Arrays:
        return {names.get(name, name): tensor for name, tensor in arrays.items()}

    return replace(
        recording,
        manifest=replace(recording.manifest, order=tuple(names[name] for name in recording.manifest.order)),
        before=part(recording.before),
        client=part(recording.client),
        delta=part(recording.delta),
        gradient=part(recording.gradient),
    )
