"""The order of the places behind pointwise convolutions: it is read from the layer before them that sees neighbours.

A convolution with a kernel of one place treats every place alike, so its places are found in any order. The layer
before it may be another one, which is solved in the same order. At a convolution with a larger kernel, least squares
gives a patch for each place, and patches overlap; a depthwise convolution is read by `by_neighbours`. Ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.neighbours import by_neighbours
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.ordering import ordered
from unveil.attacks.separation.peeling.slopes import made_by
from unveil.attacks.separation.peeling.solving import Solved
from unveil.attacks.separation.peeling.watch import Convolution
from unveil.core.least_squares import least_squares
from unveil.core.types import Tensors

Places = Float[Tensor, "n places _"]
"""Entries of a map at each place of each image, in any order of the places."""


def order_of(
    network: Network,
    layer: Convolution,
    values: Places,
    slopes: Places,
    gradients: Tensors,
    *,
    generator: Generator,
) -> Int[Tensor, "n places"]:
    """Return the order in which the places of each image stand, row by row.

    Args:
        network: The network.
        layer: A pointwise convolution.
        values: Its input.
        slopes: Slopes of the loss at its output.
        gradients: The received gradient of each parameter, float64.
        generator: Randomness of a search for sparse slopes.

    Raises:
        CannotPeelError: No layer before gives the order.
    """
    n, places, _ = values.shape
    _, height, width = layer.output_shape
    while True:
        made = made_by(network, layer)
        if layer.shared or made is None:
            raise CannotPeelError(_unordered(f"what comes before {layer.name} is no convolution with gates"))
        gates = _gates(values, made[1].closed_at)
        slopes = slopes @ layer.weight[:, :, 0, 0].to(slopes) * made[1].values * gates
        layer = made[0]
        if layer.is_depthwise:
            return _by_depthwise(network, layer, slopes, gradients, generator=generator)
        if n * places > layer.output_shape[0]:
            raise CannotPeelError(
                _unordered(f"{layer.name} gives {layer.output_shape[0]:,} equations for {n * places:,} unknowns")
            )
        gradient = gradients[layer.name]
        patches = least_squares(slopes.flatten(0, 1).T, gradient.flatten(1))
        if not layer.is_pointwise:
            if not overlap(layer):
                raise CannotPeelError(_unordered(f"the patches of {layer.name} do not overlap"))
            shaped = patches.reshape(n, places, *gradient.shape[1:])
            return torch.stack([ordered(image, height, width, stride=layer.stride[0]) for image in shaped])
        values = patches.reshape(n, places, -1)


def overlap(layer: Convolution) -> bool:
    """Return whether neighbouring patches of a convolution share entries, so that they can be put in order."""
    _, _, height, width = layer.weight.shape
    is_square = height == width and layer.stride[0] == layer.stride[1]
    begins = layer.zeros[0], layer.zeros[2]
    return is_square and height >= 3 and height > layer.stride[0] and begins == (height // 2, height // 2)


def _by_depthwise(
    network: Network, layer: Convolution, slopes: Places, gradients: Tensors, *, generator: Generator
) -> Int[Tensor, "n places"]:
    """Return the order from a depthwise convolution and the pointwise one before it."""
    made = made_by(network, layer)
    if made is None or not made[0].is_pointwise or layer.shared or layer.stride != (1, 1):
        raise CannotPeelError(_unordered(f"{layer.name} does not follow a pointwise convolution, at stride 1"))
    expansion, slope = made
    n, places, _ = slopes.shape
    if n * places > expansion.input_shape[0]:
        raise CannotPeelError(
            _unordered(f"{expansion.name} gives {expansion.input_shape[0]:,} equations for {n * places:,} unknowns")
        )
    gradient = gradients[expansion.name].flatten(1)
    orders = by_neighbours(layer, gradient, slopes, slope.values, generator=generator)
    if orders is None:
        raise CannotPeelError(_unordered(f"the neighbours of its places were not found in {expansion.name}"))
    return orders


def _gates(values: Places, closed_at: tuple[float, ...]) -> Places:
    """Return 1 for the entries behind open gates, and 0 for the others."""
    maps = Solved.by_gap(values.transpose(1, 2)[..., None])
    return maps.is_open(closed_at)[..., 0].transpose(1, 2)


def _unordered(reason: str) -> str:
    return f"The places of the last map were found, but not their order: {reason}."
