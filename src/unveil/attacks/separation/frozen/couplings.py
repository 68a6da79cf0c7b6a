"""Which convolutions are followed by BatchNorm with frozen statistics, and how their slopes depend on their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.frozen.coupling import Coupling
from unveil.attacks.separation.frozen.freezing import FrozenBatchNorm
from unveil.attacks.separation.peeling.watch import Convolution, watched
from unveil.core.network import in_mode
from unveil.core.types import Images, Tensors


def couplings_of(
    model: Module, images: Images, layers: Sequence[Convolution], gradients: Tensors
) -> dict[str, Coupling]:
    """Return the coupling of each convolution whose output a frozen BatchNorm layer reads, by its weight's name.

    Args:
        model: The network with frozen statistics, in float64; see `frozen`.
        images: Some pictures, on which the network is watched.
        layers: The network's convolutions.
        gradients: The received gradient of each parameter, float64.
    """
    client = in_mode(model, "eval")
    read: dict[str, Tensor] = {}
    norms = {name: layer for name, layer in client.named_modules() if isinstance(layer, FrozenBatchNorm)}
    for name, norm in norms.items():

        def remember(_: Module, inputs: Any, name: str = name) -> None:
            read[name] = inputs[0]

        norm.register_forward_pre_hook(remember)
    with torch.no_grad():
        _, outputs = watched(client, images, keep=tuple(layer.call for layer in layers))
    found = {}
    for layer in layers:
        made = outputs[layer.call]
        name = next((n for n, x in read.items() if x.shape == made.shape and torch.equal(x, made)), None)
        gamma = None if name is None else norms[name].weight
        if name is None or gamma is None:
            continue
        norm = norms[name]
        scale = gamma.detach() / norm.deviation / norm.values
        bias = dict(client.named_parameters()).get(f"{layer.name.removesuffix('weight')}bias")
        found[layer.name] = Coupling(
            rate=scale * gradients[f"{name}.weight"] / norm.deviation,
            shift=scale * gradients[f"{name}.bias"],
            mean=norm.mean - (0.0 if bias is None else bias.detach()),
        )
    return found
