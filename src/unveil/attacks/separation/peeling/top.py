"""The top of the walk: from pooled features to the input of the last convolution, and the slopes at its output.

Behind a mean over all places, every place of the last map is to the last convolution what an image of one class is to
a Linear layer: its slopes are those of the image's pooled feature, behind gates of 0 and 1. `find_gates` finds the
gates, least squares the patches, their overlap the order of the places. Behind a kernel of one place nothing overlaps,
and the order comes from layers before (`pointwise.py`).

Reference:
    The space of the gradient's rows and sparse gates as a key: Dimitrov et al., SPEAR, NeurIPS 2024. Gates of pooled
    places: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.gates import find_gates
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.ordering import ordered
from unveil.attacks.separation.peeling.pointwise import order_of, overlap
from unveil.attacks.separation.peeling.slopes import nearest, slope_of
from unveil.attacks.separation.peeling.watch import Convolution, Map, call_of
from unveil.core.least_squares import least_squares
from unveil.core.types import Tensors

ROUNDING = 2.0**-24  # relative rounding of a number in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class LastConvolution:
    """The convolution whose output, behind gates, is pooled.

    Args:
        layer: The convolution.
        slope: Slopes of the pooled features with respect to their outputs behind open gates.
        pooled: Number of the call whose result, flattened, is the pooled features.
    """

    layer: Convolution
    slope: Float[Tensor, " channels"]
    pooled: int


def last_convolution(network: Network, head: Head) -> LastConvolution:
    """Return the convolution whose output is pooled to the features of a head.

    Args:
        network: The network.
        head: The head that reads the pooled features.

    Raises:
        CannotPeelError: The features are not the mean over a map behind gates.
    """
    with torch.no_grad():
        call = call_of(network.model, network.images, head.features(network.images))
    if call is None:
        raise CannotPeelError("The pooled features are not the result of a call in the network.")
    for layer in nearest([layer for layer in network.layers if not layer.is_depthwise], before=call):
        _, height, width = layer.output_shape
        found = slope_of(network, layer.call, call, places=height * width, pooled=True)
        if found is not None and found.is_gated:
            return LastConvolution(layer=layer, slope=found.values, pooled=call)
    raise CannotPeelError("The features are not the mean over a map behind gates of 0 and 1.")


def read_slopes(
    head: Head,
    features: Float[Tensor, "n features"],
    labels: Int[Tensor, " n"],
    gradients: Tensors,
    *,
    noise: float = 0.0,
) -> Float[Tensor, "n features"]:
    """Return the slopes of the loss at the pooled features, from these and from the gradient of the layer on them.

    Slopes that are computed from the features are those of the client but for its rounding: of a picture whose class
    has probability 1 - 1e-4 the error in float32 has four digits. So they are corrected by the gradient, by least
    squares in which an error is as uncertain as the rounding of 1 / n, and the gradient as its own rounding or noise.

    Args:
        head: The head that reads the features.
        features: The pooled features, one row for each image.
        labels: The class index of each image.
        gradients: The received gradient of each parameter, float64.
        noise: How much the obfuscation changes the layer's gradient, relative to its length.
    """
    layer = head.layers(features, labels)[0]
    gradient = gradients[head.weights[0]]
    ridge = (len(features) * max(1.0, noise / ROUNDING)) ** 2 * gradient.square().mean()
    gram = features @ features.T + ridge * torch.eye(len(features)).to(features)
    correction: Tensor = torch.linalg.solve(gram, features @ (gradient - layer.errors.T @ features).T)
    slopes: Tensor = layer.pulls + correction @ head.weight(0)
    return slopes


def last_slopes(
    network: Network,
    last: LastConvolution,
    slopes: Float[Tensor, "n features"],
    gradients: Tensors,
    *,
    generator: Generator,
    noisy: bool,
) -> Map:
    """Return the slopes of the loss at the output of the last convolution for every image.

    Args:
        network: The network.
        last: The convolution.
        slopes: Slopes of the loss at the pooled features, one row for each image.
        gradients: The received gradient of each parameter, float64.
        generator: Randomness of the search for gates.
        noisy: Whether the update was obfuscated.

    Raises:
        CannotPeelError: The gates of some places, or their order, were not found, or cannot be.
    """
    layer, gradient = last.layer, gradients[last.layer.name].flatten(1)
    channels, height, width = layer.output_shape
    places, n = height * width, len(slopes)
    if not layer.is_pointwise:
        require_overlap(layer)
    require_channels(layer, slopes)
    if n * places >= channels or n * places > gradient.shape[1]:
        raise CannotPeelError(
            f"The last map has {n * places:,} places in the batch and only {channels:,} channels with "
            f"{gradient.shape[1]:,} equations each: its gates are not determined."
        )
    opened = slopes * last.slope
    gates = find_gates(gradient, opened, places=places, generator=generator, noisy=noisy)
    require_all(gates, places)
    rows = torch.stack([found * row for found, row in zip(gates, opened, strict=True)])
    patches = least_squares(rows.flatten(0, 1).T, gradient).reshape(n, places, -1)
    if layer.is_pointwise:
        orders = order_of(network, layer, patches, rows, gradients, generator=generator)
    else:
        shaped = patches.reshape(n, places, *layer.weight.shape[1:])
        orders = torch.stack([ordered(image, height, width, stride=layer.stride[0]) for image in shaped])
    in_order = torch.stack([image[order] for image, order in zip(rows, orders, strict=True)])
    return in_order.transpose(1, 2).reshape(n, channels, height, width)


def require_channels(layer: Convolution, slopes: Float[Tensor, "n features"]) -> None:
    """Check that the features are the means of the last convolution's channels.

    Args:
        layer: The last convolution.
        slopes: Slopes of the loss at the pooled features.

    Raises:
        CannotPeelError: They are others.
    """
    if slopes.shape[1] != layer.output_shape[0]:
        raise CannotPeelError(f"The features are not the channels of the last convolution ({layer.name}).")


def require_overlap(layer: Convolution) -> None:
    """Check that the places of the last map can be put in order by the overlap of their patches.

    Args:
        layer: The last convolution.

    Raises:
        CannotPeelError: Its patches do not overlap.
    """
    if not overlap(layer):
        raise CannotPeelError(f"The patches of the last convolution ({layer.name}) do not overlap.")


def require_all(gates: Sequence[Float[Tensor, "found _"]], places: int) -> None:
    """Check that the gates of all places of the images that were searched were found.

    Args:
        gates: The gates of each image, a row for each place that was found.
        places: Places of the map of one image.

    Raises:
        CannotPeelError: Some are missing.
    """
    for number, found in enumerate(gates, 1):
        if len(found) < places:
            raise CannotPeelError(
                f"Of the {places} places of the last map the gates of only {len(found)} were found for image {number} "
                "of the batch."
            )
