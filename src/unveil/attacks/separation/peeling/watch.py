"""The convolutions of a network in the order in which they run, and runs in which some results are replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from unveil.core.calls import ConvolutionCall, convolution_call, tensors_in, zero_padding
from unveil.core.network import run
from unveil.core.types import Images

Map = Float[Tensor, "n _ _ _"]
"""Maps of the images, n x channels x height x width; the maps of one call may differ in all but n."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """One call of a convolution.

    Args:
        name: Name of its weight among the network's parameters.
        weight: The weight, out x in x height x width.
        bias: What is added to each of the output's channels; zeros if there is none.
        call: Number of the call in a run of the network, counted from 1.
        source: Number of the call that made its input; 0 for the pictures.
        shared: Whether another call reads the input too.
        stride: Rows and columns from one place of the output to the next.
        padding: Rows and columns of zeros that the convolution adds around its input.
        input_shape: (channels, height, width) of the input.
        output_shape: The same of the output.
        padded: Zeros that a call of `F.pad` adds before, left, right, above and below.
        groups: 1, or the number of maps if it is depthwise.
    """

    name: str
    weight: Float[Tensor, "out in height width"]
    bias: Float[Tensor, " out"]
    call: int
    source: int
    shared: bool
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    padded: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def zeros(self) -> tuple[int, int, int, int]:
        """All zeros that are added left, right, above and below the input."""
        left, right, above, below = self.padded
        rows, columns = self.padding
        return left + columns, right + columns, above + rows, below + rows

    @property
    def is_pointwise(self) -> bool:
        """Whether it computes each place of its output from the same place of its input alone."""
        return self.weight.shape[2:] == (1, 1) and self.stride == (1, 1) and not any(self.zeros) and self.groups == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether it convolves each map by itself."""
        return self.groups > 1

    @property
    def equations(self) -> int:
        """Equations that the gradient of the weight gives for one channel of the input."""
        out, _, height, width = self.weight.shape
        return out * height * width

    @property
    def places(self) -> int:
        """Places of the input of one picture: unknowns of one channel."""
        return self.input_shape[1] * self.input_shape[2]


NEAR = 1e-3  # difference from a known result, relative to its length, up to which the known one takes its place

Shape = tuple[int, ...]
Sides = tuple[int, int, int, int]
"""Numbers for left, right, above and below."""

Keep = Callable[[int, Shaped[Tensor, " ..."]], bool]
"""(number of a call, its result) -> whether the result is kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gated:
    """The result of an activation that is known, and its gates.

    A run that computes it with an error, however small, flips gates that are nearly zero, and each of them changes all
    slopes before it.

    Args:
        values: The result.
        is_open: 1 for open gates, and 0 for closed ones.
    """

    values: Map
    is_open: Map

    def through(self, before: Float[Tensor, " ..."], computed: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """Return the known result, with the slopes of its gates.

        What was computed is returned if it is another activation's, or is not the known result but for small errors.

        Args:
            before: What the activation was given.
            computed: What it made of that.
        """
        if before.shape != self.values.shape or computed.shape != self.values.shape:
            return computed
        with torch.no_grad():
            off, bound = (computed - self.values).norm(), NEAR * self.values.norm()
            is_same = bool(off <= bound) and bool(((computed - before) * self.is_open).norm() <= bound)
        if not is_same:
            return computed
        opened = before * self.is_open
        return self.values + (opened - opened.detach())


class _Enough(BaseException):
    """Ends a run of which all that is wanted is kept; no `Exception`, so that no handler in the network catches it."""


class _Watch(TorchFunctionMode):
    """Numbers the calls of a run, keeps the results of some, and replaces the results of others."""

    def __init__(
        self,
        keep: Keep,
        replace: Mapping[int, Float[Tensor, " ..."]],
        names: Mapping[int, str],
        until: int | None = None,
        gated: Mapping[int, Gated] | None = None,
    ) -> None:
        super().__init__()
        self.keep, self.replace, self.names, self.until = keep, replace, names, until
        self.gated = gated or {}
        self.calls = 0
        self.made: dict[int, tuple[int, Tensor]] = {}
        self.readers: dict[int, set[int]] = {}
        self.pads: dict[int, tuple[int, Shape, Sides]] = {}  # result of a padding -> source, its shape, zeros added
        self.convolutions: list[tuple[int, int, Shape, Sides, ConvolutionCall, Shape]] = []  # see `convolutions_of`
        self.kept: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        number = self.calls
        sources = [self.made[id(t)][0] for t in tensors_in([*args, kwargs]) if id(t) in self.made]
        for source in sources:
            self.readers.setdefault(source, set()).add(number)
        call = convolution_call(func, args, kwargs)
        # A convolution whose result is replaced is not computed: it changes nothing else.
        is_skipped = call is not None and number in self.replace
        before = next(tensors_in(args), None) if number in self.gated else None
        before = None if before is None else before.clone()  # the call may work in place
        result = self.replace[number] if is_skipped else func(*args, **kwargs)
        if before is not None:
            result = self.gated[number].through(before, result)
        zeros = zero_padding(func, args, kwargs)
        if zeros is not None and id(zeros[0]) in self.made:
            self.pads[number] = self.made[id(zeros[0])][0], tuple(zeros[0].shape[1:]), zeros[1]
        if call is not None and call.padding is not None and id(call.weight) in self.names:
            source, _ = self.made.get(id(call.inputs), (0, None))
            source, shape, added = self.pads.get(source, (source, tuple(call.inputs.shape[1:]), (0, 0, 0, 0)))
            self.convolutions.append((number, source, shape, added, call, tuple(result.shape[1:])))
        if number in self.replace:
            result = self.replace[number].clone()
        if isinstance(result, Tensor):
            self.made[id(result)] = (number, result)
            if self.keep(number, result):
                self.kept[number] = result
                result = result.clone()  # a later call that works in place must not change what was kept
                self.made[id(result)] = (number, result)
        if number == self.until:
            raise _Enough
        return result


def convolutions_of(model: Module, images: Images) -> list[Convolution]:
    """Return the calls of convolutions, plain or depthwise, whose weights are parameters of the network, first to last.

    Args:
        model: The network in the client's mode.
        images: Some pictures.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    watch = _Watch(lambda number, made: False, {}, names)
    with torch.no_grad(), watch:
        run(model, images, {}, draws=None)
    found = []
    for number, source, input_shape, added, call, output_shape in watch.convolutions:
        if call.dilation != (1, 1) or source < 1 or call.padding is None or call.inputs.dim() != 4:
            continue
        is_depthwise = call.groups == call.inputs.shape[1] == output_shape[0]
        if call.groups != 1 and not is_depthwise:
            continue
        found.append(
            Convolution(
                name=names[id(call.weight)],
                weight=call.weight.detach(),
                bias=call.weight.new_zeros(len(call.weight)) if call.bias is None else call.bias.detach(),
                call=number,
                source=source,
                shared=len(watch.readers.get(source, ())) > 1,
                stride=call.stride,
                padding=call.padding,
                padded=added,
                groups=call.groups,
                input_shape=(input_shape[0], input_shape[1], input_shape[2]),
                output_shape=(output_shape[0], output_shape[1], output_shape[2]),
            )
        )
    return found


def watched(
    model: Module,
    images: Images,
    *,
    keep: tuple[int, ...] = (),
    replace: Mapping[int, Float[Tensor, " ..."]] | None = None,
) -> tuple[Any, dict[int, Float[Tensor, " ..."]]]:
    """Run the network, with some results replaced, and return its output and some results; differentiable.

    Args:
        model: The network in the client's mode.
        images: The pictures, n x c x h x w.
        keep: Numbers of calls whose results are returned.
        replace: Number of a call -> the result that it shall have.
    """
    watch = _Watch(lambda number, made: number in keep, replace or {}, {})
    with watch:
        output = run(model, images, {}, draws=None)
    return output, watch.kept


def results_of(
    model: Module,
    images: Images,
    calls: Sequence[int],
    *,
    replace: Mapping[int, Float[Tensor, " ..."]] | None = None,
    gated: Mapping[int, Gated] | None = None,
) -> dict[int, Float[Tensor, " ..."]]:
    """Run the network up to the last of some calls, with some results replaced; differentiable.

    Args:
        model: The network in the client's mode.
        images: The pictures, n x c x h x w.
        calls: Numbers of calls.
        replace: Number of a call -> the result that it shall have.
        gated: Number of a call of an activation -> its known result and gates.

    Returns:
        The results of those of the calls that give tensors, by the number of the call.
    """
    watch = _Watch(lambda number, made: number in calls, replace or {}, {}, max(calls), gated)
    with suppress(_Enough), watch:
        run(model, images, {}, draws=None)
    return watch.kept


def call_of(model: Module, images: Images, result: Float[Tensor, "n features"]) -> int | None:
    """Return the number of the first call whose result, flattened, has the given values; None if there is none."""

    def same(number: int, made: Shaped[Tensor, " ..."]) -> bool:
        is_row = made.dim() > 1 and made.flatten(1).shape == result.shape
        return is_row and made.dtype == result.dtype and torch.equal(made.flatten(1), result)

    watch = _Watch(same, {}, {})
    with torch.no_grad(), watch:
        run(model, images, {}, draws=None)
    return min(watch.kept, default=None)
