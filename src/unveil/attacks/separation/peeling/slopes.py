"""How one result of a network depends on another: by slopes behind gates that are open or closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.peeling.watch import Convolution, results_of
from unveil.core.types import Images

SEEN = 24  # places at which a slope is looked for, at least: about half of the gates there are open
SAME = 1e-6  # relative difference of slopes that are taken for one slope and its gates


def nearest(layers: list[Convolution], *, before: int) -> list[Convolution]:
    """Return the last convolutions before a call: larger kernels first, since they give more equations."""
    near = [layer for layer in layers if layer.call <= before][-3:]
    return sorted(near, key=lambda layer: (-layer.weight[0, 0].numel(), -layer.call))


@dataclass(frozen=True, kw_only=True, eq=False)
class Slope:
    """How a result depends on another one, entry by entry or as a mean over all places.

    Args:
        values: Slope of the result with respect to each of its channels behind open gates.
        is_gated: Whether some gates close.
    """

    values: Float[Tensor, " channels"]
    is_gated: bool


def slope_of(
    model: Module,
    images: Images,
    varied: int,
    call: int,
    *,
    places: int,
    pooled: bool = False,
    fixed: Sequence[int] = (),
) -> Slope | None:
    """Return the slope of a result with respect to another one, behind open gates.

    None if the result does not depend on each entry through a slope that is 0 or the same for all places.

    Args:
        model: The network in the client's mode, in float64.
        images: Some pictures, float64; the first one is used.
        varied: Number of the call whose result, a map, is varied.
        call: Number of the call whose result is looked at.
        places: Places of the map.
        pooled: Whether the result is a mean over the places of the map; else it has the map's shape.
        fixed: Numbers of calls whose results do not change when the map is varied.
    """
    chance = torch.Generator().manual_seed(0)
    probes = max(2, -(-SEEN // places))
    pictures = images[:1].expand(probes, *images.shape[1:])
    with torch.no_grad():
        alone = results_of(model, images[:1], (varied, *fixed))
    kept = {number: result.expand(probes, *result.shape[1:]) for number, result in alone.items()}
    with torch.enable_grad():
        # Numbers much larger than the network's own, of both signs, open and close every gate.
        output = kept.pop(varied)
        start = 10 * output.std() * torch.randn(output.shape, generator=chance).to(output)
        start.requires_grad_()
        kept = results_of(model, pictures, (call,), replace={**kept, varied: start})
        if call not in kept or kept[call].shape[0] != len(pictures):
            return None
        result = kept[call].flatten(1) if pooled else kept[call]
        if not pooled and result.shape != start.shape:
            return None
        if pooled and result.shape[1] != start.shape[1]:
            return None
        if not result.requires_grad:
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
    return Slope(values=slope, is_gated=is_gated) if scale > 0 and bool(same.all()) else None
