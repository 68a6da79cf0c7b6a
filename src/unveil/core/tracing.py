"""Watch a network run, leave it halfway, or put something in the place of what it made: no layer is named anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from unveil.core.gradient import linear_call, tensors_in


class Reached(BaseException):
    """Leaves the body with what was about to go into the weight; no handler of the user's own code stops it."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Cut(TorchFunctionMode):
    """Leaves the network where the given weight is about to be used by a Linear layer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = linear_call(func, args, kwargs or {})
        if call is not None and call[1] is self.weight:
            raise Reached(call[0])
        return func(*args, **(kwargs or {}))


class Feed(TorchFunctionMode):
    """Puts the given features in the place of what the body made.

    Args:
        weight: Of the Linear layer that gets the features.
        features: One row an image.
        before: Called once, right before that layer runs.
    """

    def __init__(self, weight: Tensor, features: Tensor, before: Callable[[], None]) -> None:
        super().__init__()
        self.weight = weight
        self.features = features
        self.before = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        call = linear_call(func, args, kwargs)
        if call is not None and call[1] is self.weight:
            self.before()
            kwargs.pop("input", None)
            args = (self.features.to(self.weight.dtype), *args[1:])
        return func(*args, **kwargs)


class Tape(TorchFunctionMode):
    """Notes what goes into and comes out of Linear layers.

    Args:
        names: id of a weight -> its name, for the weights that are watched.

    Attributes:
        seen: (name, input, output) of every call with a watched weight.
        linears: The same for every call, with None for a weight that is not watched.
        elsewhere: Names of watched weights that were used in another way too.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.seen: list[tuple[str, Tensor, Tensor]] = []
        self.linears: list[tuple[str | None, Tensor, Tensor]] = []
        self.elsewhere: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        call = linear_call(func, args, kwargs)
        if call is None:
            if isinstance(result, Tensor):
                used = (self.names.get(id(tensor)) for tensor in tensors_in([*args, kwargs]))
                self.elsewhere |= {name for name in used if name is not None}
            return result
        name = self.names.get(id(call[1]))
        self.linears.append((name, call[0], result))
        if name is not None:
            self.seen.append((name, call[0], result))
        return result.clone()  # an activation that works in place must not change what was noted
