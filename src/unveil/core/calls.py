"""The arguments of torch's functions, as a mode sees them when it watches a network run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor


def linear_call(
    func: Any, args: Any, kwargs: Mapping[str, Any]
) -> tuple[Float[Tensor, "*rows in"], Float[Tensor, "*out in"]] | None:
    """Return the input and the weight of a call of `F.linear`; None for a call of any other function.

    Args:
        func: The function of torch that is called.
        args: Its arguments by position.
        kwargs: Its arguments by name.
    """
    if func is not F.linear:
        return None
    given = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs)
    return given["input"], given["weight"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvolutionCall:
    """The arguments of a call of `F.conv2d`.

    Args:
        inputs: The input map.
        weight: The weight, out x (in / groups) x height x width.
        bias: What is added to each of the output's channels; None for nothing.
        stride: Rows and columns from one place of the output to the next.
        padding: Rows and columns of zeros around the input; None for `same`, which may pad unevenly.
        dilation: Rows and columns between the entries of the kernel.
        groups: Number of groups of maps that are convolved apart.
    """

    inputs: Float[Tensor, " ..."]
    weight: Float[Tensor, "out inside height width"]
    bias: Float[Tensor, " out"] | None
    stride: tuple[int, int]
    padding: tuple[int, int] | None
    dilation: tuple[int, int]
    groups: int


def convolution_call(func: Any, args: Any, kwargs: Mapping[str, Any]) -> ConvolutionCall | None:
    """Return the arguments of a call of `F.conv2d`; None for a call of any other function.

    Args:
        func: The function of torch that is called.
        args: Its arguments by position.
        kwargs: Its arguments by name.
    """
    if func is not F.conv2d:
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    given |= dict(zip(names, args, strict=False)) | dict(kwargs)
    padding = 0 if given["padding"] == "valid" else given["padding"]
    return ConvolutionCall(
        inputs=given["input"],
        weight=given["weight"],
        bias=given["bias"],
        stride=_pair(given["stride"]),
        padding=None if isinstance(padding, str) else _pair(padding),
        dilation=_pair(given["dilation"]),
        groups=given["groups"],
    )


def zero_padding(
    func: Any, args: Any, kwargs: Mapping[str, Any]
) -> tuple[Float[Tensor, "n _ _ _"], tuple[int, int, int, int]] | None:
    """Return the input of a call of `F.pad` that adds zeros around maps, and how many left, right, above and below.

    None for a call of any other function, and for other kinds of padding.

    Args:
        func: The function of torch that is called.
        args: Its arguments by position.
        kwargs: Its arguments by name.
    """
    if func is not F.pad:
        return None
    given: dict[str, Any] = {"mode": "constant", "value": None}
    given |= dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | dict(kwargs)
    sides = tuple(given["pad"])
    if given["mode"] != "constant" or given["value"] or given["input"].dim() != 4 or len(sides) != 4 or min(sides) < 0:
        return None
    return given["input"], (sides[0], sides[1], sides[2], sides[3])


def _pair(value: Any) -> tuple[int, int]:
    """Return a setting for rows and columns, which torch takes as one number too."""
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


def tensors_in(values: Any) -> Iterator[Shaped[Tensor, " ..."]]:
    """Yield every tensor among the arguments or results of a call, inside lists, tuples and dictionaries too."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
