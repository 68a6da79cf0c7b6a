"""A recorded update in memory: what a client sent in one round, the weights before it, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.manifest import Manifest

Arrays = Mapping[str, Shaped[Tensor, " ..."]]
"""Tensors by name: floats, and whole numbers such as BatchNorm's counters."""

BEFORE, CLIENT, DELTA, GRADIENT = "global", "client", "delta", "gradient"
SENT = (CLIENT, DELTA, GRADIENT)
"""Parts of a recorded update that the client sent; a name is in one of them."""
PARTS = (BEFORE, *SENT)
"""Parts of a recorded update, and the prefixes of its tensors in a file, such as `global/conv1.weight`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """What a client sent in one round. Everything in it was checked; see `checks.checked`.

    Args:
        path: The file.
        digest: SHA-256 of the file, 64 hexadecimal digits; of both files if the weights before have one of their own.
        manifest: What is known beside the tensors; its order has every sent name.
        before: `global/`, the weights before local training; empty if the file has none.
        client: `client/`, values after local training.
        delta: `delta/`, values after local training minus values before it.
        gradient: `gradient/`, the gradient of the loss.
    """

    path: Path
    digest: str
    manifest: Manifest
    before: Arrays = field(default_factory=dict)
    client: Arrays = field(default_factory=dict)
    delta: Arrays = field(default_factory=dict)
    gradient: Arrays = field(default_factory=dict)

    @property
    def sent(self) -> Arrays:
        """The sent tensors as they are in the file, in the order in which the client sent them."""
        found = {**self.client, **self.delta, **self.gradient}
        return {name: found[name] for name in self.manifest.order}

    @cached_property
    def changes(self) -> Arrays:
        """Value after minus value before of each sent tensor, in the order in which the client sent them.

        A gradient counts as one step of SGD with learning rate 1, so its change is the negative gradient. Changes of
        half-precision tensors are float32, those of whole numbers int64. Differences and gradients whose sign the
        manifest says to be reversed are turned.
        """
        return {name: self._change(name) for name in self.manifest.order}

    def _change(self, name: str) -> Shaped[Tensor, " ..."]:
        if name in self.client:
            return _wide(self.client[name]) - _wide(self.before[name])
        change = _wide(self.delta[name]) if name in self.delta else -_wide(self.gradient[name])
        return -change if self.manifest.sign.value == "reversed" else change


def _wide(tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the tensor in a type in which a difference of two values is not rounded to half precision."""
    if not tensor.is_floating_point():
        return tensor.long()
    return tensor if tensor.dtype == torch.float64 else tensor.float()
