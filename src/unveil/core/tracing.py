"""Modes of torch that watch a network run, leave it at a layer, or replace a Linear layer's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unveil.core.calls import ConvolutionCall, convolution_call, linear_call, tensors_in


class Reached(BaseException):
    """Raised by `Cut` to leave a network; it is not an `Exception`, so that no handler in the user's code catches it.

    Args:
        features: The input of the layer that was about to run.
        passed: The inputs of the convolutions before that were to be kept.
    """

    def __init__(self, features: Float[Tensor, " ..."], passed: Sequence[Float[Tensor, " ..."]] = ()) -> None:
        super().__init__()
        self.features = features
        self.passed = passed


class Cut(TorchFunctionMode):
    """Raises `Reached` when a Linear layer or a convolution is about to use the given weight.

    Args:
        weight: The weight.
        passed: Weights of convolutions before, whose inputs are kept too.
    """

    def __init__(self, weight: Float[Tensor, "out ..."], passed: Sequence[Float[Tensor, "_ ..."]] = ()) -> None:
        super().__init__()
        self.weight = weight
        self.passed: dict[int, Tensor | None] = {id(other): None for other in passed}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        linear, convolution = linear_call(func, args, kwargs), convolution_call(func, args, kwargs)
        if linear is not None and linear[1] is self.weight:
            raise Reached(linear[0])
        if convolution is not None and convolution.weight is self.weight:
            raise Reached(convolution.inputs, [kept for kept in self.passed.values() if kept is not None])
        if convolution is not None and id(convolution.weight) in self.passed:
            # A clone: an activation that works in place must not change what is kept.
            self.passed[id(convolution.weight)] = convolution.inputs.clone()
        return func(*args, **kwargs)


Maps = list[tuple[tuple[Any, ...], Float[Tensor, " ..."]]]
"""What the convolutions of a network returned, one after the other, each with the sizes and types of its arguments."""


class Feed(TorchFunctionMode):
    """Replaces the input of a Linear layer by the given features.

    Args:
        weight: The weight of that layer.
        features: One row for each picture.
        before: Called each time right before that layer runs.
        maps: What the convolutions before that layer returned in an earlier run; they are not computed again. Filled
            in the first run. None if they are to be computed each time.
    """

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        features: Float[Tensor, "n in"],
        before: Callable[[], None],
        maps: Maps | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.features = features
        self.before = before
        self.maps = maps
        self.passed = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        call = linear_call(func, args, kwargs)
        if call is not None and call[1] is self.weight:
            self.maps = None
            self.before()
            kwargs.pop("input", None)
            args = (self.features.to(self.weight.dtype), *args[1:])
        if self.maps is not None and (convolution := convolution_call(func, args, kwargs)) is not None:
            return self._convolved(self.maps, convolution, lambda: func(*args, **kwargs))
        return func(*args, **kwargs)

    def _convolved(
        self, maps: Maps, call: ConvolutionCall, compute: Callable[[], Float[Tensor, " ..."]]
    ) -> Float[Tensor, " ..."]:
        """Return a convolution's output, from the earlier run if that was given arguments like these."""
        settings = (call.stride, call.padding, call.dilation, call.groups)
        like = (call.inputs.shape, call.inputs.dtype, call.weight.shape, *settings)
        at = self.passed
        self.passed += 1
        if at == len(maps):
            maps.append((like, compute().detach()))
        elif maps[at][0] != like:
            maps[at] = like, compute().detach()
        return maps[at][1].clone()  # an activation that works in place must not change what is kept


class Tape(TorchFunctionMode):
    """Records the inputs and outputs of Linear layers.

    Args:
        names: `id` of a weight -> its name, for the watched weights.

    Attributes:
        seen: (name, input, output) of every call of `F.linear` with a watched weight.
        linears: The same for every call of `F.linear`; the name is None if the weight is not watched.
        elsewhere: Names of watched weights that other functions used too.
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
        return result.clone()  # an activation that works in place must not change what was recorded
