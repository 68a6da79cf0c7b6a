"""The batch's own statistics, from the running statistics that a client sent.

BatchNorm in train mode moves each running statistic towards that of the batch, ``new = kept old + (1 - kept) batch``.
The old value is public, so a change that was sent gives the batch's value: exactly for one step, and for several steps
their mean, in which later steps weigh more.

Reference:
    Running statistics as a leak: Hatamizadeh et al., Do Gradient Inversion Attacks Make Federated Learning Unsafe?,
    IEEE Transactions on Medical Imaging 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.core.network import in_mode, run
from unveil.core.protocols import Knowledge
from unveil.core.types import Images
from unveil.core.update import BufferChanges, Update


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchStatistics:
    """The mean and the variance of what one BatchNorm layer normalised.

    Args:
        mean: The mean per channel, float64.
        unbiased: The variance per channel, divided by one value less than there are; float64.
        steps: Number of runs of the layer over which both are averaged.
    """

    mean: Float[Tensor, " channels"]
    unbiased: Float[Tensor, " channels"]
    steps: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenStatistics:
    """What one BatchNorm layer normalises by in one step.

    Args:
        mean: The mean per channel, float64.
        variance: The variance per channel by which the layer divides, float64.
        values: Number of values of one channel that it normalises together.
    """

    mean: Float[Tensor, " channels"]
    variance: Float[Tensor, " channels"]
    values: int


def batch_statistics(model: Module, changes: BufferChanges) -> dict[str, BatchStatistics]:
    """Return the statistics of each BatchNorm layer by its name, as far as they were sent.

    Args:
        model: The network before local training.
        changes: What local training did to the network's buffers.
    """
    found = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, _BatchNorm) or layer.running_mean is None or layer.running_var is None:
            continue
        prefix = f"{name}." if name else ""
        counter = changes.counters.get(f"{prefix}num_batches_tracked")
        sent = [changes.statistics.tensors.get(f"{prefix}running_{which}") for which in ("mean", "var")]
        if counter is None or sent[0] is None or sent[1] is None:
            continue
        steps = int(counter)
        before = 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
        kept = before / (before + steps) if layer.momentum is None else (1 - layer.momentum) ** steps
        found[name] = BatchStatistics(
            mean=layer.running_mean.double() + sent[0].double() / (1 - kept),
            unbiased=layer.running_var.double() + sent[1].double() / (1 - kept),
            steps=steps,
        )
    return found


def values_normalised(model: Module, images: Images) -> dict[str, int]:
    """Return how many values of one channel each BatchNorm layer normalises together, by the layer's name.

    Args:
        model: The network.
        images: As many pictures as the batch has; their values do not matter.
    """
    client = in_mode(model, "eval")
    found: dict[str, int] = {}
    for name, layer in client.named_modules():
        if isinstance(layer, _BatchNorm):

            def count(_: Module, inputs: Any, name: str = name) -> None:
                found[name] = inputs[0].numel() // inputs[0].shape[1]

            layer.register_forward_pre_hook(count)
    with torch.no_grad():
        run(client, images, {}, draws=None)
    return found


def frozen_statistics(model: Module, update: Update, knowledge: Knowledge) -> dict[str, FrozenStatistics]:
    """Return all that frozen statistics need of each BatchNorm layer, by its name; nothing of a network in eval mode.

    Args:
        model: The network before local training.
        update: The received update.
        knowledge: The attacker's knowledge.

    Raises:
        CannotPeelError: The statistics of a layer are not known, or are those of several steps.
    """
    if knowledge.training.mode == "eval":
        return {}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    if not layers:
        return {}
    if update.buffers is None:
        raise CannotPeelError(
            "The client runs BatchNorm in train mode, where its images depend on each other, and keeps the statistics."
        )
    known = batch_statistics(model, update.buffers)
    for name, layer in layers.items():
        if name not in known or layer.weight is None:
            raise CannotPeelError(f"The statistics or the slopes of {name} were not sent.")
        if known[name].steps != 1:
            raise CannotPeelError(f"The statistics of {name} are those of {known[name].steps} runs together.")
    blank = torch.rand((knowledge.num_images, *knowledge.image_shape), generator=torch.Generator().manual_seed(0))
    values = values_normalised(model, blank.to(next(model.parameters())))
    return {
        name: FrozenStatistics(
            mean=one.mean, variance=one.unbiased * (values[name] - 1) / values[name], values=values[name]
        )
        for name, one in known.items()
    }
