"""Plan the walk from the last map towards the pictures, from the network's shapes alone, before anything is solved.

A step finds the input of a convolution. Two kinds of equations determine it. The gradient of each convolution that
reads the map is known, and so are the slopes of the loss at its output. And each known map right behind is, at its open
gates, a sum of convolutions of the unknown map, or of the map itself where the network passes it on.

The input of a depthwise convolution is not sought: its gradient gives too few equations. A step leads across it, to the
input of the pointwise convolution before it.

Reference:
    The gradient of a convolution as equations for its input: Zhu and Blaschko, R-GAP, ICLR 2021. Known maps behind,
    residual sums, several convolutions at once, and the count of equations: ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from unveil.attacks.separation.peeling.equations import SPARE
from unveil.attacks.separation.peeling.network import Network, cut_at
from unveil.attacks.separation.peeling.slopes import Slope, made_by, makers_of, slope_of
from unveil.attacks.separation.peeling.watch import Convolution, results_of

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
        is_whole: Whether it depends on nothing else, but other known maps, and its gates close on one side only.
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
class Crossing:
    """A depthwise convolution right behind the pointwise one whose input a step finds.

    Args:
        depthwise: The depthwise convolution.
        slope: Slope of its input with respect to the output of the pointwise one.
    """

    depthwise: Convolution
    slope: Slope


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The input of a convolution, and how it is determined.

    Args:
        layer: The convolution; its gradient gives the most equations.
        readers: All convolutions that read the map and whose slopes are known.
        links: What the known maps right behind say of it.
        is_cut: Whether the network's output depends on the pictures through this map alone.
        closed_at: What the map is behind closed gates; see `Slope`.
        is_tight: Whether the gradients give hardly enough equations for it, so that the known maps are needed too.
        crossing: The depthwise convolution between the convolution and the known maps; None if there is none. Slopes of
            the links are then those with respect to its output.
    """

    layer: Convolution
    readers: tuple[Convolution, ...]
    links: tuple[Link, ...]
    is_cut: bool
    closed_at: tuple[float, ...]
    is_tight: bool = False
    crossing: Crossing | None = None


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
    network: Network,
    last: Convolution,
    *,
    count: int,
    coupled: frozenset[str] = frozenset(),
) -> Plan:
    """Plan the walk for a batch.

    Args:
        network: The network.
        last: The convolution whose input is known first.
        count: Number of pictures in the batch.
        coupled: Names of the weights of convolutions in front of BatchNorm in train mode. Each is solved alone.
    """
    steps = [_step(network, last, (last,), ())]
    known: list[int] = []
    while True:
        step = steps[-1]
        layer = step.layer
        if not step.is_cut and layer.shared:
            return Plan(steps=tuple(steps), reason=f"the map before {layer.name} is used by several layers")
        known = [layer.source] if step.is_cut else [layer.source, *known]
        reasons: list[str] = []
        for before, slope in makers_of(network, layer):
            if slope.closed_at:
                steps[-1] = replace(step, closed_at=slope.closed_at)
            if before.is_depthwise:
                further = _across(network, before, known, count=count, is_coupled=bool(coupled))
            else:
                further = _behind(network, before, known, count=count, alone=before.name in coupled)
            if isinstance(further, Step):
                steps.append(further)
                break
            reasons.append(further)
        else:
            reasons.append(f"what comes before {layer.name} is no convolution with gates")
            return Plan(steps=tuple(steps), reason=reasons[0])


def _behind(
    network: Network,
    before: Convolution,
    known: list[int],
    *,
    count: int,
    alone: bool,
) -> Step | str:
    """Return the step to the input of a convolution right before the known maps, or why there is none.

    Args:
        network: The network.
        before: The convolution.
        known: Numbers of the calls that make the known maps.
        count: Number of pictures in the batch.
        alone: Whether it is solved alone, as in front of BatchNorm in train mode.
    """
    reading = [before] if alone else [o for o in network.layers if o.source == before.source and not o.is_depthwise]
    readers, links = _links(network, reading, known)
    if before not in readers:
        return f"the slopes at the output of {before.name} are not known"
    missing, behind = missing_equations(readers, count), _known_behind(readers, links, before, count)
    enough = missing <= ENOUGH * behind
    if alone:  # the output's mean and its own slopes give equations too, which are not counted
        enough = before.equations >= COUPLED_SPARE * count * before.places
    if not enough:
        unknowns = count * before.places * before.input_shape[0]
        return f"{before.name} gives too few equations for a map of {unknowns:,} numbers in the batch"
    is_tight = missing_equations(readers, math.ceil(SPARE * count)) > 0
    return replace(_step(network, before, readers, links), is_tight=is_tight)


def _across(
    network: Network,
    depthwise: Convolution,
    known: list[int],
    *,
    count: int,
    is_coupled: bool,
) -> Step | str:
    """Return the step across a depthwise convolution to the input of the pointwise one before it, or why there is none.

    Args:
        network: The network.
        depthwise: The depthwise convolution.
        known: Numbers of the calls that make the known maps.
        count: Number of pictures in the batch.
        is_coupled: Whether the network is in train mode.
    """
    made = made_by(network, depthwise)
    if is_coupled:
        return f"{depthwise.name} is a depthwise convolution, which is not crossed in train mode"
    if made is None or not made[0].is_pointwise or depthwise.shared:
        return f"{depthwise.name} is a depthwise convolution that does not follow a pointwise one"
    expansion, slope = made
    reached, behind = _links(network, [depthwise], known)
    if not reached:
        return f"the slopes at the output of {depthwise.name} are not known"
    _, others = _links(network, [expansion], known)
    past = [replace(link, slopes=(None,)) for link in others if link.direct is not None]
    is_passed_on = any(link.is_whole and not link.is_gated for link in past)
    if not is_passed_on and count * expansion.places > expansion.input_shape[0]:
        return (
            f"the gates behind {expansion.name} are not determined by the {expansion.input_shape[0]:,} channels of its "
            f"input for {count * expansion.places:,} places in the batch"
        )
    links = (*(replace(link, is_whole=False) for link in behind), *past)
    step = _step(network, expansion, (expansion,), links)
    return replace(step, is_tight=is_passed_on, crossing=Crossing(depthwise=depthwise, slope=slope))


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
    zeros = reader.zeros[2 - 2 * axis]  # above or left
    return sum((place + zeros - at) % reader.stride[axis] == 0 for at in range(size))


def _step(network: Network, layer: Convolution, readers: tuple[Convolution, ...], links: tuple[Link, ...]) -> Step:
    is_cut, is_rectified = cut_at(network, layer.source)
    closed_at = (0.0,) if is_rectified else ()
    return Step(layer=layer, readers=readers, links=links, is_cut=is_cut, closed_at=closed_at)


def _links(
    network: Network, readers: list[Convolution], known: list[int]
) -> tuple[tuple[Convolution, ...], tuple[Link, ...]]:
    """Return the convolutions that read a map and whose slopes are known, and what known maps say of the map."""
    source, inputs = readers[0].source, readers[0].input_shape
    calls = [reader.call for reader in readers]
    with torch.no_grad():
        made = results_of(network.model, network.images, known, replace=network.before(min(known)))
        shapes = {call: result.shape[1:] for call, result in made.items()}
    links = []
    for call in known:
        others = [other for other in known if other != call]
        slopes = tuple(
            slope_of(network, reader.call, call, places=shapes[call][1:].numel(), fixed=others)
            if reader.output_shape == shapes[call]
            else None
            for reader in readers
        )
        direct = None
        if inputs == shapes[call]:
            places = shapes[call][1:].numel()
            direct = slope_of(network, source, call, places=places, fixed=[*others, *calls])
        if direct is not None or any(slope is not None for slope in slopes):
            link = Link(known=call, slopes=slopes, direct=direct, is_whole=False)
            is_one_sided = all(len(slope.closed_at) < 2 for slope in link.parts)
            is_whole = is_one_sided and _is_whole(network, call, [*others, *calls, source])
            links.append(replace(link, is_whole=is_whole))
    used = [index for index in range(len(readers)) if any(link.slopes[index] is not None for link in links)]
    return tuple(readers[index] for index in used), tuple(
        replace(link, slopes=tuple(link.slopes[index] for index in used)) for link in links
    )


def _is_whole(network: Network, call: int, parts: list[int]) -> bool:
    """Return whether the result of a call depends on the pictures through some results alone."""
    with torch.no_grad():
        before = network.before(min(call, *parts))
        expected = results_of(network.model, network.images, (call, *parts), replace=before)
        fixed = {part: result.flip(0) for part, result in expected.items() if part != call}
        found = network.results((call,), replace=fixed)[call].flip(0)
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
