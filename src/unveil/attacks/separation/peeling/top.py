"""The top of the walk: from pooled features to the input of the last convolution, and the slopes at its output.

Behind a mean over all places, every place of the last map is to the last convolution what an image of one class is to
a Linear layer: its slopes are those of the image's pooled feature, behind gates of 0 and 1. `find_gates` finds the
gates, least squares the patches, their overlap the order of the places.

Reference:
    The space of the gradient's rows and sparse gates as a key: Dimitrov et al., SPEAR, NeurIPS 2024. Gates of pooled
    places: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.gates import find_gates
from unveil.attacks.separation.peeling.ordering import ordered
from unveil.attacks.separation.peeling.slopes import nearest, slope_of
from unveil.attacks.separation.peeling.watch import Convolution, Map, call_of
from unveil.core.types import Images

TRIES, TIMES = 1500, 24  # random patterns at a time, and times that they are tried for one image


@dataclass(frozen=True, kw_only=True, eq=False)
class LastConvolution:
    """The convolution whose output, behind gates, is pooled.

    Args:
        layer: The convolution.
        slope: Slopes of the pooled features with respect to their outputs behind open gates.
    """

    layer: Convolution
    slope: Float[Tensor, " channels"]


def last_convolution(model: Module, images: Images, layers: list[Convolution], head: Head) -> LastConvolution:
    """Return the convolution whose output is pooled to the features of a head.

    Args:
        model: The network in the client's mode, in float64.
        images: Some pictures in float64, on which the network is watched.
        layers: The convolutions of the network.
        head: The head that reads the pooled features.

    Raises:
        CannotPeelError: The features are not the mean over a map behind gates.
    """
    with torch.no_grad():
        call = call_of(model, images, head.features(images))
    if call is None:
        raise CannotPeelError("The pooled features are not the result of a call in the network.")
    for layer in nearest(layers, before=call):
        _, height, width = layer.output_shape
        found = slope_of(model, images, layer.call, call, places=height * width, pooled=True)
        if found is not None and found.is_gated:
            return LastConvolution(layer=layer, slope=found.values)
    raise CannotPeelError("The features are not the mean over a map behind gates of 0 and 1.")


def last_slopes(
    last: LastConvolution,
    gradient: Float[Tensor, "out in height width"],
    slopes: Float[Tensor, "n features"],
    *,
    generator: Generator,
) -> Map:
    """Return the slopes of the loss at the output of the last convolution for every image.

    Args:
        last: The convolution.
        gradient: The received gradient of its weight, float64.
        slopes: Slopes of the loss at the pooled features, one row for each image.
        generator: Randomness of the search for gates.

    Raises:
        CannotPeelError: The gates of some places were not found, or cannot be.
    """
    layer = last.layer
    channels, height, width = layer.output_shape
    places, n = height * width, len(slopes)
    require_overlap(layer, slopes)
    if n * places >= channels:
        raise CannotPeelError(
            f"The last map has {n * places:,} places in the batch and only {channels:,} channels: its gates are "
            "not determined."
        )
    opened = slopes * last.slope
    gates = find_gates(gradient.flatten(1), opened, places=places, tries=TRIES, rounds=TIMES, generator=generator)
    require_all(gates, places)
    rows = torch.cat([found * row for found, row in zip(gates, opened, strict=True)])
    patches = torch.linalg.lstsq(rows.T, gradient.flatten(1)).solution
    patches = patches.reshape(n, places, *gradient.shape[1:])
    slopes_at = []
    for image in range(n):
        order = ordered(patches[image], height, width)
        slopes_at.append((gates[image][order] * opened[image]).T.reshape(channels, height, width))
    return torch.stack(slopes_at)


def require_overlap(layer: Convolution, slopes: Float[Tensor, "n features"]) -> None:
    """Check that the places of the last map can be put in order by the overlap of their patches.

    Args:
        layer: The last convolution.
        slopes: Slopes of the loss at the pooled features.

    Raises:
        CannotPeelError: The features are not its channels, or its patches do not overlap.
    """
    side = layer.weight.shape[2]
    if slopes.shape[1] != layer.output_shape[0]:
        raise CannotPeelError(f"The features are not the channels of the last convolution ({layer.name}).")
    if layer.weight.shape[3] != side or side < 3 or layer.stride != (1, 1) or layer.padding != (side // 2,) * 2:
        raise CannotPeelError(f"The patches of the last convolution ({layer.name}) do not overlap.")


def require_all(gates: list[Float[Tensor, "found _"]], places: int) -> None:
    """Check that the gates of all places were found for the last image that was searched.

    Args:
        gates: The gates of each image so far, a row for each place that was found.
        places: Places of the map of one image.

    Raises:
        CannotPeelError: Some are missing.
    """
    if len(gates[-1]) < places:
        raise CannotPeelError(
            f"Of the {places} places of the last map the gates of only {len(gates[-1])} were found for image "
            f"{len(gates)} of the batch."
        )
