"""How one result of a network depends on another: slopes behind open gates, and which gates of a found map are open."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.peeling.watch import Convolution, Map, watched
from unveil.core.types import Images

SEEN = 24  # places at which a slope is looked for, at least: about half of the gates there are open
SAME = 1e-6  # relative difference of slopes that are taken for one slope and its gates


def nearest(layers: list[Convolution], *, before: int) -> list[Convolution]:
    """Return the last convolutions before a call: larger kernels first, since they give more equations."""
    near = [layer for layer in layers if layer.call <= before][-3:]
    return sorted(near, key=lambda layer: (-layer.weight[0, 0].numel(), -layer.call))


def slope_of(
    model: Module, images: Images, layer: Convolution, call: int, *, pooled: bool
) -> tuple[Float[Tensor, " channels"], bool] | None:
    """Return the slope of a result with respect to the channels of an output behind open gates, and if some close.

    None if the result does not depend on each entry through a slope that is 0 or the same for all places.

    Args:
        model: The network in the client's mode, in float64.
        images: Some pictures, float64; the first one is used.
        layer: The convolution whose output is varied.
        call: Number of the call whose result is looked at.
        pooled: Whether the result is a mean over the places of the output; else it has the output's shape.
    """
    chance = torch.Generator().manual_seed(0)
    probes = max(2, -(-SEEN // (layer.output_shape[1] * layer.output_shape[2])))
    pictures = images[:1].expand(probes, *images.shape[1:])
    with torch.enable_grad():
        _, kept = watched(model, pictures, keep=(layer.call,))
        # Numbers much larger than the network's own, of both signs, open and close every gate.
        output = kept[layer.call].detach()
        start = 10 * output.std() * torch.randn(output.shape, generator=chance).to(output)
        start.requires_grad_()
        _, kept = watched(model, pictures, keep=(call,), replace={layer.call: start})
        if call not in kept or kept[call].shape[0] != len(pictures):
            return None
        result = kept[call].flatten(1) if pooled else kept[call]
        if not pooled and result.shape != start.shape:
            return None
        if pooled and result.shape[1] != start.shape[1]:
            return None
        weights = torch.rand(result.shape, generator=chance).to(result) + 0.5
        (slopes,) = torch.autograd.grad((result * weights).sum(), start, materialize_grads=True)
    slopes = slopes / (weights[:, :, None, None] if pooled else weights)
    rows = slopes.transpose(0, 1).flatten(1)
    at = rows.abs().argmax(1, keepdim=True)
    slope = rows.gather(1, at)[:, 0]
    scale = float(slope.abs().max())
    same = torch.minimum(rows.abs(), (rows - slope[:, None]).abs()) <= SAME * scale
    is_gated = bool((rows.abs() <= SAME * scale).any())
    return (slope, is_gated) if scale > 0 and bool(same.all()) else None


def is_rectified(model: Module, images: Images, call: int) -> bool:
    """Return whether the values of a map are never negative, as behind ReLU."""
    with torch.no_grad():
        _, kept = watched(model, images, keep=(call,))
    return bool((kept[call] >= 0).all())


def open_gates(found: Map) -> Map:
    """Return 1 for the entries of a map behind ReLU that are more than zero, and 0 for the others.

    Entries that are zero were found with an error, whose size the negative ones show. The threshold lies in the widest
    gap, as a ratio, between sorted entries of about this size.
    """
    error = float((-found).clamp_min(0).max())
    largest = float(found.max())
    if error <= 0 or largest <= 0:
        return (found > 1e-9 * largest).to(found)
    near = found[(found > error / 10) & (found < min(100 * error, largest))]
    ends = found.new_tensor([error / 10, min(100 * error, largest)])
    logs = torch.cat([near, ends]).log().sort().values
    at = int((logs[1:] - logs[:-1]).argmax())
    return (found > float(((logs[at] + logs[at + 1]) / 2).exp())).to(found)
