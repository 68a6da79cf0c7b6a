"""The patch embedding of a network, found by watching it run: its weight, and the pixel that each of its inputs is.

Six pictures are run up to the first layer: black, white, three whose values are the row, column and colour of the
pixel, and a random one, on which what the first five say is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from unveil.core.calls import ConvolutionCall, convolution_call, linear_call
from unveil.core.network import run

CLOSE = 1e-3  # largest difference, relative to white minus black, at which two inputs of the embedding count as equal


@dataclass(frozen=True, eq=False)
class PatchEmbedding:
    """A layer that maps each patch of a picture to a token.

    The layer's input for token t is ``scale * picture.flatten()[pixels[t]] + offset[t]``.

    Args:
        weight: Name of the layer's weight.
        pixels: The index in the flattened picture, tokens x entries; no pixel occurs twice.
        scale: What the network multiplies each entry by before the layer.
        offset: What it adds to each entry before the layer.
    """

    weight: str
    pixels: Int[Tensor, "tokens entries"]
    scale: Float[Tensor, " entries"]
    offset: Float[Tensor, "tokens entries"]


class _Entered(BaseException):
    """Raised to leave a network at its first layer; not an `Exception`, so that the user's code does not catch it."""

    def __init__(self, weight: object, patches: Float[Tensor, "n tokens entries"] | None) -> None:
        super().__init__()
        self.weight = weight
        self.patches = patches


class _FirstLayer(TorchFunctionMode):
    """Raises `_Entered` when the first convolution or Linear layer is about to run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        convolution = convolution_call(func, args, kwargs)
        if convolution is not None:
            raise _Entered(convolution.weight, _cut_by_convolution(convolution))
        call = linear_call(func, args, kwargs)
        if call is not None:
            inputs = call[0]
            whole = inputs.dim() < 3
            raise _Entered(call[1], None if whole else inputs.reshape(len(inputs), -1, inputs.shape[-1]))
        return func(*args, **kwargs)


def _cut_by_convolution(call: ConvolutionCall) -> Float[Tensor, "n tokens entries"] | None:
    """Return the patches that a convolution multiplies by its weight; None if its patches are not side by side."""
    kernel = tuple(call.weight.shape[2:])
    if call.inputs.dim() != 4 or call.groups != 1 or call.stride != kernel or call.padding != (0, 0):
        return None
    return F.unfold(call.inputs, kernel, stride=kernel).transpose(1, 2)


def read_embedding(client: Module, image_shape: tuple[int, int, int]) -> PatchEmbedding | None:
    """Find the layer that maps patches of the picture to tokens.

    Args:
        client: The network in the client's mode; it is not changed.
        image_shape: (channels, height, width) of its pictures.

    Returns:
        The layer; None if the network's first layer is none, or if its input is not an affine map of single pixels that
        is the same at all tokens.
    """
    names = {id(p): name for name, p in client.named_parameters()}
    like = next(iter(client.parameters()))
    channels, height, width = image_shape
    grids = torch.meshgrid(*(torch.linspace(0, 1, size) for size in image_shape), indexing="ij")
    chance = torch.rand(image_shape, generator=torch.Generator().manual_seed(0))
    images = torch.stack([torch.zeros(image_shape), torch.ones(image_shape), *grids, chance]).to(like.device)
    try:
        with torch.no_grad(), _FirstLayer():
            run(client, images, {}, draws=None)
    except _Entered as entered:
        name, patches = names.get(id(entered.weight)), entered.patches
    else:
        return None
    if name is None or patches is None or len(patches) != len(images) or patches.shape[1] < 2:
        return None
    black, white, *places, random = patches.double()
    scale = (white - black).mean(0)
    if bool((white - black - scale).abs().gt(CLOSE * scale.abs()).any()) or not bool(scale.abs().gt(1e-6).all()):
        return None
    sizes = (channels, height, width)
    index = [((at - black) / scale * (size - 1)).round().long() for at, size in zip(places, sizes, strict=True)]
    if any(bool(((i < 0) | (i >= size)).any()) for i, size in zip(index, sizes, strict=True)):
        return None
    pixels = (index[0] * height + index[1]) * width + index[2]
    expected = scale * chance.to(pixels.device).double().flatten()[pixels] + black
    if pixels.unique().numel() < pixels.numel() or bool((random - expected).abs().gt(CLOSE * scale.abs()).any()):
        return None
    return PatchEmbedding(name, pixels, scale, black)
