"""The slope of a convolution in pictures, computed for blocks of pixels at a time.

A first convolution has three input channels. Its slope in the input is a convolution with three output channels, which
leaves most lanes of a processor's vector instructions empty. For blocks of 4 x 4 pixels the same slope is a convolution
that has 48 output channels: the kernel is larger, but the lanes are full. Its output is the blocks, side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from unveil.core.calls import ConvolutionCall, convolution_call

BLOCK = 4
"""Pixels along each side of a block. 4 was as fast as 2 or faster, and 8 slower, on AVX2 and on AVX512."""

FEW = 4
"""Input channels up to which blocks are faster."""


class BlockedSlopes(TorchFunctionMode):
    """Computes the slopes in the input of `F.conv2d` by blocks, where that is faster; values change only by rounding.

    It is for float32 on a processor, and for inputs that are differentiated once, with weights that are not.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = convolution_call(func, args, kwargs)
        if call is None or not _is_faster(call):
            return func(*args, **kwargs)
        return _Convolution.apply(call.inputs, call.weight, call.bias, call.stride, call.padding)


def _is_faster(call: ConvolutionCall) -> bool:
    inputs, weight = call.inputs, call.weight
    return (
        inputs.dim() == 4
        and inputs.shape[1] <= FEW
        and call.groups == 1
        and call.dilation == (1, 1)
        and call.padding is not None
        and all(BLOCK % stride == 0 for stride in call.stride)
        and inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and inputs.requires_grad
        and not weight.requires_grad
        and not (call.bias is not None and call.bias.requires_grad)
    )


class _Convolution(torch.autograd.Function):
    """A convolution whose slope in its input is computed by blocks."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, weight: Any, bias: Any, stride: Any, padding: Any) -> Any:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.padding, ctx.size = stride, padding, inputs.shape[2:]
        return F.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Any) -> Any:
        (weight,) = ctx.saved_tensors
        return slope_in_input(slope, weight, ctx.stride, ctx.padding, ctx.size), None, None, None, None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Axis:
    """How blocks meet a convolution's outputs along the height or the width.

    Pixel r of block a is reached by the output a * step + q through entry ``r + padding - stride * q`` of the kernel.

    Args:
        entries: That entry, for each r and each q from the first to the last.
        is_inside: Whether the kernel has that entry.
        before: Number of outputs before the first one of a block, from which a block's pixels are reached.
        after: The same after it.
        step: Outputs from one block to the next.
    """

    entries: Int[Tensor, "block q"]
    is_inside: Bool[Tensor, "block q"]
    before: int
    after: int
    step: int


def _axis(kernel: int, stride: int, padding: int, device: torch.device) -> _Axis:
    after = (BLOCK - 1 + padding) // stride
    before = (kernel - 1 - padding) // stride  # the first output is a quotient rounded up
    q = torch.arange(-before, after + 1, device=device)
    entries = torch.arange(BLOCK, device=device)[:, None] + padding - stride * q
    inside = (entries >= 0) & (entries < kernel)
    return _Axis(
        entries=entries.clamp(0, kernel - 1), is_inside=inside, before=before, after=after, step=BLOCK // stride
    )


def slope_in_input(
    slope: Float[Tensor, "n out rows columns"],
    weight: Float[Tensor, "out channels _ _"],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
) -> Float[Tensor, "n channels height width"]:
    """Compute the slope of a loss in the input of a convolution from that in its output.

    Args:
        slope: The slope in the output.
        weight: The convolution's weight.
        stride: Rows and columns from one place of the output to the next; divisors of `BLOCK`.
        padding: Rows and columns of zeros around the input.
        size: Height and width of the input, in pixels.
    """
    rows, columns = (
        _axis(kernel, step, around, slope.device)
        for kernel, step, around in zip(weight.shape[2:], stride, padding, strict=True)
    )
    # out x channels x block x q x block x q
    taken = weight[:, :, rows.entries][..., columns.entries]
    taken = taken * (rows.is_inside[:, :, None, None] & columns.is_inside)
    q = (rows.entries.shape[1], columns.entries.shape[1])
    kernels = taken.permute(1, 2, 4, 0, 3, 5).reshape(-1, len(weight), *q).contiguous(memory_format=torch.channels_last)
    blocks = [-(-length // BLOCK) for length in size]
    around: list[int] = []
    for axis, count, outputs in ((columns, blocks[1], slope.shape[3]), (rows, blocks[0], slope.shape[2])):
        around += [axis.before, (count - 1) * axis.step + axis.after + 1 - outputs]
    left, right, above, below = around
    inside = (0, 0)
    if left == right >= 0 and above == below >= 0:  # then the convolution itself adds the zeros, without a copy
        inside = (above, left)
    else:
        slope = F.pad(slope, around)
    found = F.pixel_shuffle(F.conv2d(slope, kernels, None, (rows.step, columns.step), inside), BLOCK)
    return found[..., : size[0], : size[1]]
