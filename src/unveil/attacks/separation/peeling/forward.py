"""From a map to the network's end: which slopes and gradients the network gives, if the map is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.peeling.equations import Reading
from unveil.attacks.separation.peeling.known import KnownMap
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.plan import Step
from unveil.attacks.separation.peeling.watch import Gated, Map
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class End:
    """The network, and what is known at its end, where the walk begins.

    Args:
        network: The network.
        call: Number of the call whose result, flattened, is the pooled features.
        features: The pooled features.
        slopes: Slopes of the loss at them.
    """

    network: Network
    call: int
    features: Float[Tensor, "n features"]
    slopes: Float[Tensor, "n features"]


def run_from(
    step: Step, values: Map, known: Sequence[KnownMap], end: End, running: Module, gradients: Tensors
) -> tuple[Map, list[Reading], float]:
    """Run the network from a map to the pooled features.

    Args:
        step: The step that found the map.
        values: The map.
        known: The known maps behind, whose gates the run has.
        end: What is known at the network's end.
        running: The network with the slopes of the client's mode.
        gradients: The received gradient of each parameter, float64.

    Returns:
        The slopes of the loss at the map, the equations of the convolutions that read it, and how far the
        gradients and the features behind it are off.
    """
    calls = tuple(reader.call for reader in step.readers)
    with torch.enable_grad():
        start = values.detach().requires_grad_()
        replaced = {step.layer.source: start}
        kept = end.network.results(
            (*calls, end.call),
            replace=replaced,
            count=len(start),
            model=running,
            gated={one.call: Gated(values=one.values, is_open=one.is_open) for one in known},
        )
        pooled = kept[end.call].flatten(1)
        loss = (pooled * end.slopes).sum()
        behind = {n: p for n, p in running.named_parameters() if n in gradients and p.requires_grad}
        wanted = [start, *(kept[call] for call in calls), *behind.values()]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    back, slopes, off, whole = found[0], found[1 : 1 + len(calls)], 0.0, 0.0
    for name, slope in zip(behind, found[1 + len(calls) :], strict=True):
        if slope is not None and bool(slope.any()):
            received = gradients[name]
            off += float((slope - received).square().sum())
            whole += float(received.square().sum())
    readings = [
        Reading(layer=reader, gradient=gradients[reader.name], slopes=at)
        for reader, at in zip(step.readers, slopes, strict=True)
    ]
    missed = float((pooled.detach() - end.features).square().sum() / end.features.square().sum())
    return back, readings, (off / max(whole, 1e-300) + missed) ** 0.5
