"""How one result of a network depends on another: by slopes behind gates that are open or closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.watch import Convolution, Map, results_of

SEEN = 24  # places at which a slope is looked for, at least: a third of the gates there are open, or more
MORE = 12  # times that is done again, at most, while some map has shown no open gate
SCALE = 1e-3  # share of a gate's upper value by which a map may be off as a whole: its entries there count as closed
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
        closed_at: What the result is behind a closed gate: 0 for ReLU, 0 and 6 for ReLU6. Nothing if there are no
            gates, or if the result is a mean.
    """

    values: Float[Tensor, " channels"]
    is_gated: bool
    closed_at: tuple[float, ...] = ()


def makers_of(network: Network, after: Convolution) -> Iterator[tuple[Convolution, Slope]]:
    """Yield the convolutions that make the input of another one, up to gates and sums, and how that depends on them.

    Args:
        network: The network.
        after: The other convolution.
    """
    for layer in nearest(network.layers, before=after.source):
        if layer.output_shape != after.input_shape:
            continue
        slope = slope_of(network, layer.call, after.source, places=after.places)
        if slope is not None:
            yield layer, slope


def made_by(network: Network, after: Convolution) -> tuple[Convolution, Slope] | None:
    """Return the first of `makers_of`; None if there is none."""
    return next(makers_of(network, after), None)


def slope_of(
    network: Network, varied: int, call: int, *, places: int, pooled: bool = False, fixed: Sequence[int] = ()
) -> Slope | None:
    """Return the slope of a result with respect to another one, behind open gates.

    None if the result does not depend on each entry through a slope that is 0 or the same for all places, or if what a
    closed gate shows is not one of two numbers.

    Args:
        network: The network.
        varied: Number of the call whose result, a map, is varied.
        call: Number of the call whose result is looked at.
        places: Places of the map.
        pooled: Whether the result is a mean over the places of the map; else it has the map's shape.
        fixed: Numbers of calls whose results do not change when the map is varied.
    """
    chance = torch.Generator().manual_seed(0)
    calls = (varied, *fixed)
    with torch.no_grad():
        kept = results_of(network.model, network.images, calls, replace=network.before(min(calls)))
    output = kept.pop(varied)
    times = -(-SEEN // (len(output) * places))
    slopes: list[Tensor] = []
    results: list[Tensor] = []
    for time in range(times + MORE):
        # Numbers of a tenth to a hundred times the size of the network's own, of both signs, move every gate.
        wide = 3 if time < times else 6  # a gate of two sides may be narrow, or far away
        size = output.std() * 10 ** (wide * (torch.rand(output.shape, generator=chance).to(output) - 0.5) + 0.5)
        start = output + size * torch.randn(output.shape, generator=chance).to(output)
        seen = _observed(network, varied, start, call, kept, pooled=pooled, chance=chance)
        if seen is None:
            return None
        slopes.append(seen[0])
        results.append(seen[1])
        rows = torch.cat(slopes, 1)
        slope = rows.gather(1, rows.abs().argmax(1, keepdim=True))[:, 0]
        least = SAME * float(slope.abs().max())
        closed = rows.abs() <= least
        if least == 0 or not bool((closed | ((rows - slope[:, None]).abs() <= least)).all()):
            return None
        live = slope.abs() > least
        if time + 1 >= times and bool(live.all()):
            break
    closed_at = rows.new_zeros(0) if pooled else torch.unique(torch.cat(results, 1)[closed & live[:, None]])
    if len(closed_at) > 2:
        return None
    return Slope(values=slope, is_gated=bool(closed.any()), closed_at=tuple(closed_at.tolist()))


def _observed(
    network: Network,
    varied: int,
    start: Map,
    call: int,
    fixed: Mapping[int, Float[Tensor, " ..."]],
    *,
    pooled: bool,
    chance: torch.Generator,
) -> tuple[Float[Tensor, "channels seen"], Float[Tensor, "channels _"]] | None:
    """Return slopes of a result at some maps, and the result there.

    None if the result has not the shape of the maps, or of their mean, or does not depend on them.

    Args:
        network: The network.
        varied: Number of the call whose result is varied.
        start: The maps.
        call: Number of the call whose result is looked at.
        fixed: The results that do not change.
        pooled: Whether the result is a mean over the places of the map.
        chance: Randomness of the weights with which entries of the result are told apart.
    """
    with torch.enable_grad():
        start.requires_grad_()
        made = network.results((call,), replace={**fixed, varied: start})
        if call not in made or len(made[call]) != len(start) or not made[call].requires_grad:
            return None
        result = made[call].flatten(1) if pooled else made[call]
        if not pooled and result.shape != start.shape:
            return None
        if pooled and result.shape[1] != start.shape[1]:
            return None
        weights = torch.rand(result.shape, generator=chance).to(result) + 0.5
        (slopes,) = torch.autograd.grad((result * weights).sum(), start, materialize_grads=True)
    slopes = slopes / (weights[:, :, None, None] if pooled else weights)
    return slopes.transpose(0, 1).flatten(1), result.detach().transpose(0, 1).flatten(1)


def open_gates(
    values: Float[Tensor, " ..."], closed_at: tuple[float, ...], margin: Float[Tensor, " ..."] | float = 0.0
) -> Float[Tensor, " ..."]:
    """Return 1 for the entries of a result behind open gates, and 0 for the others.

    Args:
        values: The result.
        closed_at: What it is behind a closed gate; see `Slope`. The lower of two closes below, the other one above.
        margin: How far beyond that an entry must be.
    """
    gates = torch.ones_like(values)
    if closed_at:
        gates = gates * (values - closed_at[0] > margin)
    if len(closed_at) > 1:
        beyond = closed_at[1] - values
        gates = gates * ((beyond > margin) & (beyond > SCALE * (closed_at[1] - closed_at[0])))
    return gates
