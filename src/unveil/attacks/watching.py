"""Watch a network run, leave it halfway, or put something in the place of what it made: no layer is named anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Reached(Exception):  # noqa: N818  (not an error: how the body is left)
    """Carries out what was about to go into the weight."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Cut(TorchFunctionMode):
    """Leaves the network where the given weight is about to be used."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and args[1] is self.weight:
            raise Reached(args[0])
        return func(*args, **(kwargs or {}))


class Feed(TorchFunctionMode):
    """Puts the given features in the place of what the body made."""

    def __init__(self, weight: Tensor, features: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.features = features

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and args[1] is self.weight:
            args = (self.features, *args[1:])
        return func(*args, **(kwargs or {}))


class Tape(TorchFunctionMode):
    """Notes what goes into and comes out of the named Linear weights, and the maps that pass by."""

    def __init__(self, names: Mapping[int, str], maps: list[Tensor] | None = None) -> None:
        super().__init__()
        self.names = names
        self.maps = maps or []
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.linear and id(args[1]) in self.names:
            self.seen.append((self.names[id(args[1])], args[0], result))
            result = result.clone()  # an activation that works in place must not change what was noted
        elif isinstance(result, Tensor) and result.dim() == 4:
            self.maps = [*self.maps[-3:], result]
        return result
