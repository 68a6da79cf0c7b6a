"""The place of each feature in the picture: which entry of the network's last map it is.

The network is run twice. The first run notes all 4-dimensional maps; the last maps are those from which no other map is
computed. The second run replaces each entry of the last maps by a different whole number, and reads the numbers that
arrive at the Linear layers. The numbers survive flattening in any order, permuting, joining of branches, and
activations. They do not survive pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from unveil.core.calls import linear_call, tensors_in
from unveil.core.errors import UsageError
from unveil.core.network import run
from unveil.core.tracing import Cut, Reached
from unveil.core.types import Images

LARGEST = 1 << 24  # float32 does not represent all larger whole numbers exactly


@dataclass(frozen=True, eq=False)
class Places:
    """A map whose entries are features.

    Args:
        feature_map: (channels, height, width) of the map.
        order: The index of the feature that each entry of the flattened map is.
    """

    feature_map: tuple[int, int, int]
    order: Int[Tensor, " entries"]


def read_places(
    client: Module, weight: Float[Tensor, "out features"], images: Images
) -> tuple[Places | None, tuple[int, int, int] | None]:
    """Find the map whose entries are the inputs of a Linear layer.

    Args:
        client: The network in the client's mode; it is not changed.
        weight: Weight of the first Linear layer behind the map; one of the network's own parameters.
        images: Some pictures, two or more.

    Returns:
        The map, or None if the features are not the entries of a map; and (channels, height, width) of the last map of
        the network, or None if the network has no map.
    """
    maps = _LastMaps(images)
    _reach(client, weight, images, maps)
    sizes = [(number, shape) for number, shape in maps.last.items() if shape[1] * shape[2] > 1]
    total = sum(c * h * w for _, (c, h, w) in sizes)
    last = max((shape for _, shape in sizes), key=lambda s: s[0] * s[1] * s[2], default=maps.largest)
    if not sizes or total >= LARGEST or images.dtype not in (torch.float32, torch.float64):
        return None, last
    chance = torch.Generator().manual_seed(0)
    values = (torch.randperm(total, generator=chance) + 1).to(images)
    parts = dict(zip((n for n, _ in sizes), torch.split(values, [c * h * w for _, (c, h, w) in sizes]), strict=True))
    arrived = _reach(client, weight, images, _Numbered(parts, images))
    if arrived is None:
        return None, last
    # Which feature each number is. Features that hold no such number do not come from the last maps.
    feature = torch.full((total + 1,), -1, dtype=torch.long)
    row = arrived[0].cpu()
    whole = (row == row.round()) & (row >= 1) & (row <= total)
    feature[row[whole].long()] = torch.arange(len(row))[whole]
    grids: dict[tuple[int, int], list[Tensor]] = {}
    for number, (_, height, width) in sizes:
        found = feature[parts[number].cpu().long()]
        if bool((found >= 0).all()):
            grids.setdefault((height, width), []).append(found)
    if not grids:
        return None, last
    (height, width), found_maps = max(grids.items(), key=lambda item: sum(map(len, item[1])))
    order = torch.cat(found_maps)
    return Places((len(order) // (height * width), height, width), order.to(images.device)), last


def _reach(
    client: Module, weight: Float[Tensor, "out features"], images: Images, mode: TorchFunctionMode
) -> Float[Tensor, "rows features"] | None:
    """Run the network up to a Linear layer in a mode that watches the run.

    Args:
        client: The network in the client's mode.
        weight: Weight of the Linear layer.
        images: Some pictures.
        mode: `_LastMaps` or `_Numbered`.

    Returns:
        The inputs of the layer, one row for each picture; None if the mode is `_Numbered` and they hold no numbers.
    """
    start = mode.parts.get(0) if isinstance(mode, _Numbered) else None
    if isinstance(mode, _Numbered) and start is not None:  # before the mode begins to count calls
        images = mode.mark(start.expand(len(images), -1).reshape(images.shape).clone())
    try:
        with torch.no_grad(), Cut(weight), mode:
            run(client, images, {}, draws=None)
    except Reached as reached:
        if not isinstance(mode, _Numbered):
            return reached.features
        return reached.features if id(reached.features) in mode.marked else None
    except UsageError:
        if not isinstance(mode, _Numbered):
            raise
        # Numbers in place of what the network computes need not be of its kind, such as complex or whole ones.
    return None


class _LastMaps(TorchFunctionMode):
    """Notes the maps from which no other map was computed, by the number of the call; number 0 is the pictures."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.calls = 0
        self.alive: dict[int, Tensor] = {0: images}
        self.moved: dict[int, tuple[int, Tensor]] = {id(images): (0, images)}  # id -> number of the call, tensor
        self.largest: tuple[int, int, int] | None = None

    @property
    def last(self) -> dict[int, tuple[int, int, int]]:
        """Number of each last map's call -> (channels, height, width)."""
        return {number: (t.shape[1], t.shape[2], t.shape[3]) for number, t in self.alive.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls += 1
        if not isinstance(result, Tensor) or result.dim() != 4 or linear_call(func, args, kwargs) is not None:
            return result
        sources = [tensor for tensor in tensors_in([*args, kwargs]) if id(tensor) in self.moved]
        if len(sources) == 1 and _only_moved(sources[0], result):  # axes may be permuted: this is not a new map
            self.moved[id(result)] = (self.moved[id(sources[0])][0], result)
            return result
        for tensor in sources:
            self.alive.pop(self.moved[id(tensor)][0], None)
        self.alive[self.calls] = result
        self.moved[id(result)] = (self.calls, result)
        channels, height, width = result.shape[1:]
        if height * width > 1:
            self.largest = (channels, height, width)
        return result


def _only_moved(source: Shaped[Tensor, " ..."], result: Shaped[Tensor, " ..."]) -> bool:
    """Return whether two tensors hold the same values, in any order and shape."""
    if source.numel() != result.numel() or source.dtype != result.dtype:
        return False
    return torch.equal(source.flatten().sort().values, result.flatten().sort().values)


class _Numbered(TorchFunctionMode):
    """Replaces the results of some calls by whole numbers, and follows the numbers through the network.

    A call that only moves numbers is run. A call that changes them and keeps the shape (an activation, a normalisation,
    dropout) is assumed to keep each number at its place.

    Args:
        parts: Number of a call -> the whole numbers for its result, one for each entry of a picture's map.
        images: The pictures of the run.
    """

    def __init__(self, parts: dict[int, Float[Tensor, " _"]], images: Images) -> None:
        super().__init__()
        self.parts = parts
        self.calls = 0
        self.marked: dict[int, Tensor] = {}

    def mark(self, tensor: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Remember a tensor that holds numbers, and return it. It is kept alive, so no other tensor gets its id."""
        self.marked[id(tensor)] = tensor
        return tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        numbered = [t for t in tensors_in([*args, kwargs]) if id(t) in self.marked]
        before = [t.clone() for t in numbered]
        result = func(*args, **kwargs)
        self.calls += 1
        if not isinstance(result, Tensor):
            return result
        if self.calls in self.parts:
            numbers = self.parts[self.calls].expand(len(result), -1).reshape(result.shape)
            return self.mark(numbers.clone())
        if not numbered or linear_call(func, args, kwargs) is not None:
            return result
        known = torch.cat([t.reshape(-1) for t in before])
        if bool(torch.isin(result.to(known.dtype), torch.cat([known, known.new_zeros(1)])).all()):
            return self.mark(result)
        if result.shape == before[0].shape:
            return self.mark(result.copy_(before[0]) if result is numbered[0] else before[0])
        return result
