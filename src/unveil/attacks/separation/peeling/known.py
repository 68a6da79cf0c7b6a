"""The equations of a map from the known maps right behind it: see `plan.Link` for how they depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.attacks.separation.peeling.equations import Passing, Reading, input_slopes, read_slopes
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.plan import Link, Step
from unveil.attacks.separation.peeling.watch import Map
from unveil.attacks.separation.peeling.wrong_gates import flipped
from unveil.core.types import Tensors

CLEARLY = 0.3  # ratio of the distances from a slope that was read up to which the other gate is taken
SAME = 1e-4  # difference of a known map from its equation at which an entry is left out, relative to the map's spread


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownMap:
    """A map that was found.

    Args:
        call: Number of the call that makes it.
        values: The map, one for each image, float64.
        slopes: Slopes of the loss at the map.
        is_open: 1 for entries behind open gates, and 0 for the others, if it is the result of gates.
        is_doubtful: Whether an entry is so near to zero that its gate may be wrong.
    """

    call: int
    values: Map
    slopes: Map
    is_open: Map
    is_doubtful: Bool[Tensor, "n _ _ _"]


def readings_of(step: Step, known: Sequence[KnownMap], gradients: Tensors) -> list[Reading]:
    """Return the convolutions that read a map, with the slopes of the loss at their outputs.

    Args:
        step: The step that finds the map.
        known: The known maps behind.
        gradients: The received gradient of each parameter, float64.
    """
    return [
        Reading(layer=layer, gradient=gradients[layer.name], slopes=slopes_behind(step, known, index))
        for index, layer in enumerate(step.readers)
    ]


def slopes_behind(step: Step, known: Sequence[KnownMap], index: int) -> Map:
    """Return the slopes of the loss at the output of a convolution right before the known maps.

    Args:
        step: The step.
        known: The known maps behind.
        index: Number of the convolution among those that read the step's map.
    """
    maps = {found.call: found for found in known}
    parts = []
    for link in step.links:
        slope, found = link.slopes[index], maps[link.known]
        if slope is not None:
            gates = found.is_open if slope.is_gated else torch.ones_like(found.values)
            parts.append(slope.values[:, None, None] * gates * found.slopes)
    return torch.stack(parts).sum(0)


def slopes_at(step: Step, known: Sequence[KnownMap], readings: Sequence[Reading]) -> Map:
    """Return the slopes of the loss at a map, from the gates of the known maps behind.

    Args:
        step: The step that found the map.
        known: The known maps behind.
        readings: The convolutions that read the map, with the slopes at their outputs.
    """
    maps = {found.call: found for found in known}
    parts = [input_slopes(read.layer, read.layer.weight.to(read.slopes), read.slopes) for read in readings]
    for link in step.links:
        if link.direct is not None:
            found = maps[link.known]
            gates = found.is_open if link.direct.is_gated else torch.ones_like(found.values)
            parts.append(link.direct.values[:, None, None] * gates * found.slopes)
    return torch.stack(parts).sum(0)


def corrected(
    step: Step, known: Sequence[KnownMap], readings: Sequence[Reading], found: Map, *, exactly: bool
) -> list[KnownMap]:
    """Return the known maps with other gates where the gradients contradict them.

    A wrong gate of an output spoils one row of the gradient, and hardly the map that all rows give. Where the gradient
    is exact, the doubtful gates change that explain what is left of their row. Through noise the slopes at each output
    are read from its row, and a doubtful gate changes if the other one's slope is clearly nearer.

    Args:
        step: The step that found the map.
        known: The known maps behind.
        readings: The convolutions that read the map.
        found: The map.
        exactly: Whether nothing was obfuscated.
    """
    maps = {kept.call: kept for kept in known}
    for index, reading in enumerate(readings):
        behind = [link for link in step.links if link.slopes[index] is not None]
        slope = behind[0].slopes[index]
        kept = maps[behind[0].known]
        if len(behind) > 1 or slope is None or not slope.is_gated:
            continue
        opened = slope.values[:, None, None] * kept.slopes
        if exactly:
            gates = flipped(reading, opened, kept.is_open, kept.is_doubtful, found)
        else:
            gates = _read(reading, opened, kept, found)
        maps[kept.call] = replace(kept, is_open=gates)
    return [maps[kept.call] for kept in known]


def _read(reading: Reading, opened: Map, kept: KnownMap, found: Map) -> Map:
    """Return the gates of a known map, with those changed of which the slopes that are read say so clearly."""
    rows = kept.is_doubtful.any(0).flatten(1).any(1)
    read = read_slopes(reading, rows, found) if bool(rows.any()) else None
    if read is None:
        return kept.is_open
    is_open = kept.is_open.clone()
    before, opened = is_open[:, rows].flatten(2), opened[:, rows].flatten(2)
    changes = (read - (1 - before) * opened).abs() < CLEARLY * (read - before * opened).abs()
    changes = changes & kept.is_doubtful[:, rows].flatten(2)
    is_open[:, rows] = torch.where(changes, 1 - before, before).reshape(is_open[:, rows].shape)
    return is_open


def passings_of(network: Network, step: Step, known: Sequence[KnownMap]) -> list[Passing]:
    """Return the known maps as functions of the unknown one, at their open gates.

    Args:
        network: The network.
        step: The step that finds the map.
        known: The known maps behind.
    """
    maps = {found.call: found for found in known}
    return [_passing(network, step, link, maps) for link in step.links if link.is_whole]


def _passing(network: Network, step: Step, link: Link, maps: dict[int, KnownMap]) -> Passing:
    found = maps[link.known]
    layers = tuple(r for r, slope in zip(step.readers, link.slopes, strict=True) if slope is not None)
    calls = tuple(layer.call for layer in layers) + ((step.layer.source,) if link.direct is not None else ())
    scale = link.parts[0].values
    usable = scale.abs() > 1e-6 * float(scale.abs().max())
    inverse = torch.where(usable, 1 / scale.masked_fill(~usable, 1.0), 0.0)[:, None, None]
    # What does not depend on the unknown map: run with a first part that opens every gate, and all others at zero.
    high = 1e3 * float(found.values.abs().max().clamp_min(1e-300))
    first = high * inverse.expand(len(scale), *found.values.shape[2:])
    rest = _known_map_at(network, step, found.call, calls, first, maps) - high
    # Run again at the part that gives the known values: entries that differ are behind gates of another kind.
    again = _known_map_at(network, step, found.call, calls, (found.values - rest) * inverse, maps)
    biases = [
        slope.values * reader.bias.to(slope.values)
        for reader, slope in zip(step.readers, link.slopes, strict=True)
        if slope is not None
    ]
    spread = float(found.values.std())
    agrees = ((again - found.values).abs() <= SAME * spread) & usable[:, None, None]
    is_open = (found.is_open if link.is_gated else torch.ones_like(found.values)) * agrees
    return Passing(
        layers=layers,
        scales=tuple(slope.values for slope in link.slopes if slope is not None),
        direct=None if link.direct is None else link.direct.values,
        values=(found.values - rest - sum(biases, torch.zeros_like(scale))[:, None, None]) * is_open,
        is_open=is_open,
    )


def _known_map_at(
    network: Network,
    step: Step,
    call: int,
    parts: tuple[int, ...],
    first: Float[Tensor, "... channels height width"],
    maps: dict[int, KnownMap],
) -> Map:
    """Return a known map as the network computes it from the other known maps and from its parts.

    Args:
        network: The network.
        step: The step that finds the unknown map.
        call: Number of the call that makes the known map.
        parts: Numbers of the calls on which it depends: convolutions of the unknown map, and that map itself.
        first: The first of these parts; the others are zero.
        maps: The known maps, by the number of their call.
    """
    n = len(maps[call].values)
    shapes = {reader.call: reader.output_shape for reader in step.readers}
    shapes[step.layer.source] = step.layer.input_shape
    replaced: dict[int, Tensor] = {part: first.new_zeros((n, *shapes[part])) for part in (*shapes, *parts)}
    replaced[parts[0]] = first.expand(n, *shapes[parts[0]])
    replaced |= {other: known.values for other, known in maps.items() if other != call}
    with torch.no_grad():
        return network.results((call,), replace=replaced, count=n)[call]
