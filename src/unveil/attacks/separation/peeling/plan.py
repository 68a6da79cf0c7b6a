"""Plan the walk from the last map towards the pictures, from the network's shapes alone, before anything is solved.

A step finds the input of a convolution. Two kinds of equations determine it. The gradient of each convolution that
reads the map is known, and so are the slopes of the loss at its output. And each known map right behind is, at its open
gates, a sum of convolutions of the unknown map, or of the map itself where the network passes it on.

Reference:
    The gradient of a convolution as equations for its input: Zhu and Blaschko, R-GAP, ICLR 2021. Known maps behind,
    residual sums, several convolutions at once, and the count of equations: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import Module

from unveil.attacks.separation.peeling.equations import SPARE
from unveil.attacks.separation.peeling.slopes import Slope, nearest, slope_of
from unveil.attacks.separation.peeling.watch import Convolution, cut_at, results_of
from unveil.core.types import Images

OPEN = 0.5  # share of gates that are expected to be open
COUPLED_SPARE = 1.2  # equations for one unknown in train mode, at least: with fewer the steps hardly converge
ENOUGH = 0.5  # most share of a map's known values behind that may be needed to make up for missing equations


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """How a known map depends on a map before it, while other known maps do not change.

    Args:
        known: Number of the call that makes the known map.
        slopes: Its slope with respect to the output of each convolution that reads the map before; None for those on
            which it does not depend.
        direct: Its slope with respect to the map before itself; None if the network does not pass that on.
        is_whole: Whether it depends on nothing else, but other known maps.
    """

    known: int
    slopes: tuple[Slope | None, ...]
    direct: Slope | None
    is_whole: bool

    @property
    def parts(self) -> list[Slope]:
        """All slopes."""
        return [slope for slope in (*self.slopes, self.direct) if slope is not None]

    @property
    def is_gated(self) -> bool:
        """Whether some gates of the known map close."""
        return any(slope.is_gated for slope in self.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The input of a convolution, and how it is determined.

    Args:
        layer: The convolution; its gradient gives the most equations.
        readers: All convolutions that read the map and whose slopes are known.
        links: What the known maps right behind say of it.
        is_cut: Whether the network's output depends on the pictures through this map alone.
        is_rectified: Whether the map is never negative.
        is_tight: Whether the gradients give hardly enough equations for it, so that the known maps are needed too.
    """

    layer: Convolution
    readers: tuple[Convolution, ...]
    links: tuple[Link, ...]
    is_cut: bool
    is_rectified: bool
    is_tight: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The steps of the walk.

    Args:
        steps: The steps, first the input of the last convolution.
        reason: Why there is no further step.
    """

    steps: tuple[Step, ...]
    reason: str

    @property
    def deepest(self) -> Step | None:
        """The last step at a cut, to which the walk is expected to lead; None if there is none."""
        return next((step for step in reversed(self.steps) if step.is_cut), None)


def planned(
    model: Module,
    images: Images,
    layers: list[Convolution],
    last: Convolution,
    *,
    count: int,
    coupled: frozenset[str] = frozenset(),
) -> Plan:
    """Plan the walk for a batch.

    Args:
        model: The network in the client's mode, in float64.
        images: Some pictures in float64, on which the network is watched.
        layers: The convolutions whose gradients were sent.
        last: The convolution whose input is known first.
        count: Number of pictures in the batch.
        coupled: Names of the weights of convolutions in front of BatchNorm in train mode. Each is solved alone.
    """
    steps = [_step(model, images, last, (last,), ())]
    known: list[int] = []
    while True:
        step = steps[-1]
        layer = step.layer
        if not step.is_cut and layer.shared:
            return Plan(steps=tuple(steps), reason=f"the map before {layer.name} is used by several layers")
        known = [layer.source] if step.is_cut else [layer.source, *known]
        before = _before(model, images, layers, layer)
        if before is None:
            return Plan(steps=tuple(steps), reason=f"what comes before {layer.name} is no convolution with gates")
        alone = before.name in coupled
        reading = [before] if alone else [other for other in layers if other.source == before.source]
        readers, links = _links(model, images, reading, known)
        if before not in readers:
            return Plan(steps=tuple(steps), reason=f"the slopes at the output of {before.name} are not known")
        missing, behind = missing_equations(readers, count), _known_behind(readers, links, before, count)
        enough = missing <= ENOUGH * behind
        if alone:  # the output's mean and its own slopes give equations too, which are not counted
            enough = before.equations >= COUPLED_SPARE * count * before.places
        if not enough:
            unknowns = count * before.places * before.input_shape[0]
            return Plan(
                steps=tuple(steps),
                reason=f"{before.name} gives too few equations for a map of {unknowns:,} numbers in the batch",
            )
        is_tight = missing_equations(readers, math.ceil(SPARE * count)) > 0
        steps.append(replace(_step(model, images, before, readers, links), is_tight=is_tight))


def missing_equations(readers: Sequence[Convolution], count: int) -> int:
    """Return how many numbers of a map the gradients of the convolutions that read it leave undetermined.

    A convolution with a stride reads some places of the map with few of its weights only. Each weight gives one
    equation for each output of the convolution, which all of these places share.

    Args:
        readers: Convolutions with the same input.
        count: Number of pictures in the batch.
    """
    channels, height, width = readers[0].input_shape
    period = max(reader.stride[0] for reader in readers), max(reader.stride[1] for reader in readers)
    missing = 0
    for row in range(min(period[0], height)):
        for column in range(min(period[1], width)):
            places = len(range(row, height, period[0])) * len(range(column, width, period[1]))
            equations = sum(
                len(reader.weight) * _weights_at(reader, 0, row) * _weights_at(reader, 1, column) for reader in readers
            )
            missing += channels * max(0, count * places - equations)
    return missing


def _weights_at(reader: Convolution, axis: int, place: int) -> int:
    """Return with how many rows or columns of its kernel a convolution reads a row or column of its input."""
    size = reader.weight.shape[2 + axis]
    return sum((place + reader.padding[axis] - at) % reader.stride[axis] == 0 for at in range(size))


def _step(
    model: Module, images: Images, layer: Convolution, readers: tuple[Convolution, ...], links: tuple[Link, ...]
) -> Step:
    is_cut, is_rectified = cut_at(model, layer.source, images, images.flip(0))
    return Step(layer=layer, readers=readers, links=links, is_cut=is_cut, is_rectified=is_rectified)


def _before(model: Module, images: Images, layers: list[Convolution], after: Convolution) -> Convolution | None:
    """Return the convolution that makes the input of another one, up to gates and sums."""
    for layer in nearest(layers, before=after.source):
        if layer.output_shape != after.input_shape:
            continue
        if slope_of(model, images, layer.call, after.source, places=after.places) is not None:
            return layer
    return None


def _links(
    model: Module, images: Images, readers: list[Convolution], known: list[int]
) -> tuple[tuple[Convolution, ...], tuple[Link, ...]]:
    """Return the convolutions that read a map and whose slopes are known, and what known maps say of the map."""
    source, inputs = readers[0].source, readers[0].input_shape
    calls = [reader.call for reader in readers]
    with torch.no_grad():
        shapes = {call: made.shape[1:] for call, made in results_of(model, images[:1], known).items()}
    links = []
    for call in known:
        others = [other for other in known if other != call]
        slopes = tuple(
            slope_of(model, images, reader.call, call, places=shapes[call][1:].numel(), fixed=others)
            if reader.output_shape == shapes[call]
            else None
            for reader in readers
        )
        direct = None
        if inputs == shapes[call]:
            places = shapes[call][1:].numel()
            direct = slope_of(model, images, source, call, places=places, fixed=[*others, *calls])
        if direct is not None or any(slope is not None for slope in slopes):
            links.append(
                Link(
                    known=call,
                    slopes=slopes,
                    direct=direct,
                    is_whole=_is_whole(model, images, call, [*others, *calls, source]),
                )
            )
    used = [index for index in range(len(readers)) if any(link.slopes[index] is not None for link in links)]
    return tuple(readers[index] for index in used), tuple(
        replace(link, slopes=tuple(link.slopes[index] for index in used)) for link in links
    )


def _is_whole(model: Module, images: Images, call: int, parts: list[int]) -> bool:
    """Return whether the result of a call depends on the pictures through some results alone."""
    with torch.no_grad():
        expected = results_of(model, images, (call, *parts))
        fixed = {part: result for part, result in expected.items() if part != call}
        found = results_of(model, images.flip(0), (call,), replace=fixed)[call]
    return bool(torch.allclose(found, expected[call], rtol=1e-6, atol=1e-9))


def _known_behind(readers: Sequence[Convolution], links: Sequence[Link], layer: Convolution, count: int) -> float:
    """Return how many entries of known maps behind open gates say something of the map before, for a whole batch."""
    entries = 0.0
    for link in links:
        shapes = [reader.output_shape for reader, slope in zip(readers, link.slopes, strict=True) if slope is not None]
        if link.direct is not None:
            shapes.append(layer.input_shape)
        if link.is_whole:
            entries += OPEN * count * torch.Size(shapes[0]).numel()
    return entries
