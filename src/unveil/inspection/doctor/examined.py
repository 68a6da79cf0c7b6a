"""A recorded update as the checks read it: its changes by the network's names, and what its manifest says."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import Module

from unveil.captures.conversion import BUFFERS
from unveil.captures.manifest import Manifest
from unveil.captures.naming import named_as
from unveil.captures.recording import Arrays, Recording
from unveil.core.errors import UsageError
from unveil.core.network import Mode
from unveil.core.types import Images, Tensors

FLOAT32 = 2.0**-23
"""A unit in the last place of float32, relative to the value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A recorded update.

    Args:
        recording: What was recorded, with the names of the network where they fit.
        network: The client's network with the weights before local training as far as they fit, without the
            normalisation that the manifest names; None if it is not at hand.
        obfuscation: SPEC of the obfuscation that the update seems to have gone through; `none` for none.
    """

    recording: Recording
    network: Module | None = None
    obfuscation: str = "none"

    @classmethod
    def of(cls, recording: Recording, network: Module | None = None, obfuscation: str = "none") -> Examined:
        """Take a recorded update and a network, which does not change.

        Args:
            recording: The recorded update, with the names of its file.
            network: The client's network as its factory builds it; None if it is not at hand.
            obfuscation: SPEC of the obfuscation that the update seems to have gone through.
        """
        if network is None:
            return cls(recording=recording, obfuscation=obfuscation)
        with suppress(UsageError):  # the check of the tensors says what does not fit
            recording = named_as(recording, network)
        network = copy.deepcopy(network)
        own: Mapping[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        with torch.no_grad():
            for name, tensor in recording.before.items():
                if name in own and own[name].shape == tensor.shape:
                    own[name].copy_(tensor)
        return cls(recording=recording, network=network, obfuscation=obfuscation)

    @property
    def facts(self) -> Manifest:
        """What the manifest says."""
        return self.recording.manifest

    @cached_property
    def changes(self) -> Arrays:
        """Value after minus value before of each sent tensor."""
        return self.recording.changes

    @cached_property
    def own(self) -> Mapping[str, Shaped[Tensor, " ..."]]:
        """Parameters and buffers of the network by name; empty without it."""
        if self.network is None:
            return {}
        return {**dict(self.network.named_parameters()), **self.buffers}

    @cached_property
    def buffers(self) -> Mapping[str, Shaped[Tensor, " ..."]]:
        """The network's buffers that its `state_dict` has; empty without the network."""
        if self.network is None:
            return {}
        kept = self.network.state_dict().keys()
        return {name: buffer for name, buffer in self.network.named_buffers() if name in kept}

    @cached_property
    def fits(self) -> bool:
        """Whether every sent tensor that has a name of the network also has its shape, and at least one has."""
        shared = [name for name in self.changes if name in self.own]
        return bool(shared) and all(self.changes[name].shape == self.own[name].shape for name in shared)

    @property
    def has_weights(self) -> bool:
        """Whether the weights before local training were recorded."""
        return bool(self.recording.before)

    @cached_property
    def sent(self) -> Tensors:
        """Changes of the parameters: floats that are no buffers, by name."""
        return {n: t for n, t in self.changes.items() if t.is_floating_point() and not self.is_buffer(n)}

    def is_buffer(self, name: str) -> bool:
        """Whether a tensor is a buffer: one of the network's, or by its name."""
        return name in self.buffers or name.rpartition(".")[2] in BUFFERS

    def moved(self, kind: str) -> Arrays:
        """Changes of the buffers of one kind, such as `running_var`, as they were sent."""
        return {name: t for name, t in self.changes.items() if name.rpartition(".")[2] == kind}

    def after(self, name: str) -> Shaped[Tensor, "*shape"] | None:
        """Value of a tensor after local training; None if it was not recorded."""
        if name in self.recording.client:
            return self.recording.client[name]
        before = self.recording.before.get(name)
        return None if before is None else before + self.changes[name]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the obfuscation's stages, such as `topk` and `qsgd`; the manifest's, or as they seem to be."""
        spec = self.facts.obfuscation.value or self.obfuscation
        return tuple(part.partition(":")[0] for part in spec.split("+") if part != "none")

    @property
    def is_exact(self) -> bool:
        """Whether nothing but half precision and clipping seems to have changed the update."""
        return not set(self.stages) - {"fp16", "bf16", "clip"}

    @cached_property
    def steps(self) -> int | None:
        """Number of local steps, as far as the manifest says it; 1 for a gradient."""
        facts = self.facts
        if self.recording.gradient:
            return 1
        if facts.steps.value is not None:
            return facts.steps.value
        n, size = self.pictures, facts.batch_size.value
        if facts.epochs.value is None or n is None:
            return None
        return facts.epochs.value * -(-n // min(size or n, n))

    @property
    def pictures(self) -> int | None:
        """Number of the client's pictures; None if the manifest does not say it."""
        labels = self.facts.labels.value
        return self.facts.examples.value or (len(labels) if labels else None)

    @property
    def batch_size(self) -> int | None:
        """Number of pictures in a step; None if the manifest does not say it."""
        n, size = self.pictures, self.facts.batch_size.value
        return n if size is None or self.recording.gradient else (size if n is None else min(size, n))

    @cached_property
    def length(self) -> float | None:
        """How many times longer the update should be than the gradient of the mean loss, by what the manifest says.

        It is learning rate times steps, with momentum the sum of its weights, and for a summed loss times the batch
        size. None if the manifest does not say enough, or clipping changed the length.
        """
        facts, steps, size = self.facts, self.steps, self.batch_size
        if "clip" in self.stages:
            return None
        each = 1.0 if facts.loss_reduction.value != "sum" else float(size or 0)
        if self.recording.gradient:
            return each or None
        optimiser = (facts.optimiser.value or "sgd").lower()
        if steps is None or facts.learning_rate.value is None or not each or optimiser != "sgd":
            return None
        momentum = facts.momentum.value or 0.0
        whole = math.fsum((1 - momentum**left) / (1 - momentum) for left in range(1, min(steps, 10_000) + 1))
        return facts.learning_rate.value * whole * each if momentum < 1 else None

    @property
    def mode(self) -> Mode:
        """Mode of local training: the manifest's; else train if buffers changed, which is what an audit assumes."""
        said = self.facts.mode.value
        if said is None:
            said = "train" if any(bool(self.changes[n].any()) for n in self.changes if self.is_buffer(n)) else "eval"
        return "train" if said == "train" else "eval"

    def normalised(self, images: Images) -> Images:
        """Pictures in [0, 1] as the network gets them, by the normalisation that the manifest names."""
        given = self.facts.normalisation.value
        if given is None:
            return images
        mean, std = (images.new_tensor(given[key])[:, None, None] for key in ("mean", "std"))
        return (images - mean) / std

    def saying(self, spec: str) -> Examined:
        """The same with another obfuscation."""
        return replace(self, obfuscation=spec)
