"""The first layer of a network: which numbers of its update say what its input was like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unveil.core.calls import ConvolutionCall, convolution_call, linear_call
from unveil.core.least_squares import least_squares
from unveil.core.network import in_mode, run
from unveil.core.types import Images, Tensors
from unveil.inspection.doctor.buffers import COUNTER, momentum_of, passes
from unveil.inspection.doctor.examined import Examined

MOVED = 0.2
"""How far the first and the last weights of several steps may read a number apart."""
TINY = 1e-30
"""Keeps logarithms finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstLayer:
    """The first layer, and what the update says of its input.

    Args:
        weight: Name of its weight.
        bias: Name of its bias; empty where BatchNorm's statistics are read instead.
        channels: Colour channels of the pictures.
        call: The arguments of its convolution; None for a Linear layer.
        observed: Numbers of the update: with a bias the mean of the pixels, the logarithm of the mean's size, that of
            the contrast; of statistics the mean, the logarithm of the mean's size, that of the standard deviation.
    """

    weight: str
    bias: str
    channels: int
    call: ConvolutionCall | None
    observed: Float[Tensor, 3]

    @property
    def is_statistics(self) -> bool:
        """Whether BatchNorm's statistics are read, and no gradient."""
        return not self.bias


def of_gradients(layer: FirstLayer, gradients: Tensors) -> Float[Tensor, 3]:
    """Numbers of a gradient: see `FirstLayer.observed`."""
    return _of_gradients(gradients[layer.weight], gradients[layer.bias], layer.channels)


def _of_gradients(weight: Float[Tensor, "out ..."], bias: Float[Tensor, " out"], channels: int) -> Float[Tensor, 3]:
    rows, errors = weight.double().reshape(len(weight), channels, -1), bias.double()
    energy = errors.square().sum().clamp_min(TINY)
    flat = rows.mean(2)
    mean = (flat * errors[:, None]).sum(0) / energy
    return torch.stack([mean.mean(), _log(flat, energy), _log(rows - flat[..., None], energy)])


def _log(part: Float[Tensor, ...], energy: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Logarithm of the root mean square of a part of the gradient, in units of the errors."""
    return (part.square().sum() / (part[0].numel() * energy)).clamp_min(TINY).log() / 2


def of_statistics(layer: FirstLayer, images: Images) -> Float[Tensor, 3]:
    """Numbers of the first layer's output on these pictures."""
    assert layer.call is not None
    output = _convolved(layer.call, images).transpose(0, 1).flatten(1).double()
    return _of_statistics(layer.call, images.shape[2:], output.mean(1), output.var(1))


def _of_statistics(
    call: ConvolutionCall, size: torch.Size, mean: Float[Tensor, " out"], variance: Float[Tensor, " out"]
) -> Float[Tensor, 3]:
    """Mean of the input by least squares, from the outputs' means; and the size of the outputs' standard deviations."""
    weight = call.weight.detach()
    channels = weight.shape[1] * call.groups
    flat = torch.eye(channels)[:, :, None, None].expand(channels, channels, *size).to(weight)
    responses = _convolved(call, flat, bias=False).mean((2, 3)).T.double()
    bias = 0.0 if call.bias is None else call.bias.detach().double()
    inputs = least_squares(responses, (mean - bias)[:, None], driver="gelsd").squeeze(1)
    scale = weight.double().square().flatten(1).sum(1).mean().clamp_min(TINY)
    return torch.stack(
        [
            inputs.mean(),
            ((mean - bias).square().mean() / scale).clamp_min(TINY).log() / 2,
            (variance.clamp_min(0).mean() / scale).clamp_min(TINY).log() / 2,
        ]
    )


def _convolved(call: ConvolutionCall, images: Images, *, bias: bool = True) -> Float[Tensor, "n out rows columns"]:
    padding = "same" if call.padding is None else call.padding
    offset = call.bias if bias else None
    with torch.no_grad():
        return F.conv2d(images.to(call.weight), call.weight, offset, call.stride, padding, call.dilation, call.groups)


def first_layer(examined: Examined, images: Images) -> FirstLayer | str:
    """Find the first layer and read its update; a clause that says why not if it says nothing of its input.

    Args:
        examined: The recorded update.
        images: Two public pictures as the network gets them.
    """
    assert examined.network is not None
    client = in_mode(examined.network, examined.mode)
    named = {id(t): name for name, t in [*client.named_parameters(), *client.named_buffers()]}
    watch = _Watch(named)
    with torch.no_grad(), watch:
        run(client, images, dict(client.named_parameters()), dict(client.named_buffers()), draws=None)
    if not watch.weight or watch.weight not in examined.sent:
        return "nothing was sent of the first layer, or it is no convolution and no Linear layer"
    bias, change = watch.weight.removesuffix("weight") + "bias", examined.sent[watch.weight]
    if watch.norm and examined.mode == "train":
        return _read_statistics(examined, watch, images.shape)
    if bias not in examined.sent or not bool(examined.sent[bias].any()) or not bool(change.any()):
        return "the first layer has no bias whose gradient would say what its input was like"
    if change[0].numel() % images.shape[1]:
        return "the first layer has another number of inputs than the pictures have pixels"
    return FirstLayer(
        weight=watch.weight,
        bias=bias,
        channels=images.shape[1],
        call=watch.call,
        observed=_of_gradients(change, examined.sent[bias], images.shape[1]),
    )


def _read_statistics(examined: Examined, watch: _Watch, shape: torch.Size) -> FirstLayer | str:
    """What BatchNorm behind the first layer says of its input, as a mean over the local steps."""
    mean, variance = f"{watch.norm}running_mean", f"{watch.norm}running_var"
    momentum, before, changes = momentum_of(examined, mean), examined.recording.before, examined.changes
    if not {mean, variance} <= changes.keys() & before.keys() or momentum is None or watch.call is None:
        return "BatchNorm behind the first layer hides its input, and its running statistics were not sent"
    steps = passes(examined) or (None if f"{watch.norm}{COUNTER}" in changes else examined.steps)
    if steps is None or not bool(changes[mean].any()) or examined.facts.buffers.value == "obfuscated":
        return "BatchNorm's running statistics do not say what the batch's were"
    kept = (1 - momentum) ** steps
    batch = [before[name].double() + changes[name].double() / (1 - kept) for name in (mean, variance)]
    last = replace(watch.call, weight=watch.call.weight.detach() + changes[watch.weight])
    ends = [_of_statistics(call, shape[2:], batch[0], batch[1]) for call in (watch.call, last)]
    if steps > 1 and bool((ends[1] - ends[0]).abs().max() > MOVED):
        return "the local steps changed the first layer too much"
    return FirstLayer(
        weight=watch.weight,
        bias="",
        channels=shape[1],
        call=watch.call,
        observed=ends[0] if steps == 1 else (ends[0] + ends[1]) / 2,
    )


class _Watch(TorchFunctionMode):
    """Finds the first convolution or Linear layer, and the BatchNorm right behind it.

    Args:
        names: `id` of a parameter or buffer -> its name.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.weight = ""
        self.norm = ""
        self.call: ConvolutionCall | None = None
        self.output: object = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.weight:
            linear, convolution = linear_call(func, args, kwargs), convolution_call(func, args, kwargs)
            used = linear[1] if linear is not None else convolution.weight if convolution is not None else None
            if used is not None:
                self.weight, self.call, self.output = self.names.get(id(used), ""), convolution, result
        elif func is F.batch_norm and not self.norm:
            given = dict(zip(("input", "running_mean"), args, strict=False)) | dict(kwargs)
            if given["input"] is self.output:
                self.norm = self.names.get(id(given["running_mean"]), "").removesuffix("running_mean")
        return result
