"""The equations that determine a map: gradients of the convolutions that read it, and known maps behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import grad

from unveil.attacks.separation.peeling.watch import Convolution, Map
from unveil.core.least_squares import least_squares

SPARE = 1.25  # equations for one unknown below which none is left out, and no slopes are read
OUTLYING = 8.0  # what a row leaves unexplained, in units of the median row, from which on its slopes count as wrong
ROUNDING = 1e-6  # share of a row that may be unexplained whatever the others leave

Kernel = Float[Tensor, "_ _ _ _"]
"""The weight of a convolution or its gradient, out x in x height x width."""


class Linear(Protocol):
    """A linear function of a map."""

    def __call__(self, x: Map, /) -> Float[Tensor, " ..."]:
        """Return the function at a map."""
        ...

    def transposed(self, values: Any, /) -> Map:
        """Return the transpose of the function at values."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """A convolution that reads the map: ``gradient = sum over places of slopes x patches of the map``.

    Args:
        layer: The convolution.
        gradient: The received gradient of its weight, float64.
        slopes: Slopes of the loss at its output, float64.
    """

    layer: Convolution
    gradient: Kernel
    slopes: Map

    def __call__(self, x: Map) -> Kernel:
        """Return the gradient of the weight at an input."""
        return weight_gradient(self.layer, x, self.slopes)

    def transposed(self, kernel: Kernel) -> Map:
        """Return the transpose of the call."""
        return input_slopes(self.layer, kernel, self.slopes)

    def restricted(self, kept: Float[Tensor, " out"]) -> Reading:
        """Return the equations of some rows of the gradient; `kept` is 1 for these and 0 for the others."""
        rows = kept[:, None, None]
        return replace(self, gradient=self.gradient * rows[..., None], slopes=self.slopes * rows)

    @property
    def evenly(self) -> Float[Tensor, " out"]:
        """Weights with which all rows of the gradient count alike: a client's rounding is relative to a row's size."""
        size = self.gradient.flatten(1).norm(dim=1)
        usable = size > ROUNDING * size.max()
        return torch.where(usable, size.max() / size.masked_fill(~usable, 1.0), 0.0)

    def gram(self) -> Float[Tensor, "unknowns unknowns"]:
        """Return the normal equations of one channel of the map, which are those of every channel."""
        layer = self.layer
        kernel, size = layer.weight.shape[2:], layer.input_shape[1:]
        n, out, rows, columns = self.slopes.shape
        # The slopes, a stride apart, on a grid from which each place of the map reads those of its own patches.
        spread = self.slopes.new_zeros(
            (n, out, *((side - 1) * step + 1 for side, step in zip((rows, columns), layer.stride, strict=True)))
        )
        spread[:, :, :: layer.stride[0], :: layer.stride[1]] = self.slopes
        top, left = kernel[0] - 1 - layer.zeros[2], kernel[1] - 1 - layer.zeros[0]
        below, right = (size[i] + kernel[i] - 1 - spread.shape[2 + i] - (top, left)[i] for i in (0, 1))
        wide = F.pad(spread, (left, right, top, below))  # a negative number of rows is cut off
        matrix = F.unfold(wide, (int(kernel[0]), int(kernel[1]))).transpose(0, 1).flatten(1)
        return matrix.T @ matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Passing:
    """A known map behind, which at open gates is a sum of convolutions of the unknown map, and of the map itself.

    Args:
        layers: The convolutions.
        scales: The slope of the known map with respect to each convolution's output behind open gates.
        direct: The same with respect to the unknown map itself; None if it does not pass by.
        values: The known map without what does not depend on the unknown map.
        is_open: 1 for entries behind open gates, and 0 for the others.
    """

    layers: tuple[Convolution, ...]
    scales: tuple[Float[Tensor, " _"], ...]
    direct: Float[Tensor, " channels"] | None
    values: Map
    is_open: Map

    def __call__(self, x: Map) -> Map:
        """Return the known map at an unknown one, at open gates."""
        total = torch.zeros_like(self.values)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            output = F.conv2d(F.pad(x, layer.zeros), layer.weight.to(x), stride=layer.stride)
            total = total + scale[:, None, None] * output
        if self.direct is not None:
            total = total + self.direct[:, None, None] * x
        return total * self.is_open

    def transposed(self, values: Map) -> Map:
        """Return the transpose of the call."""
        values = values * self.is_open
        parts = [
            input_slopes(layer, layer.weight.to(values), scale[:, None, None] * values)
            for layer, scale in zip(self.layers, self.scales, strict=True)
        ]
        if self.direct is not None:
            parts.append(self.direct[:, None, None] * values)
        return torch.stack(parts).sum(0)


def read_slopes(reading: Reading, rows: Bool[Tensor, " out"], found: Map) -> Float[Tensor, "n rows places"] | None:
    """Read the slopes at some outputs of a convolution from its gradient and its input, by least squares.

    None if the gradient gives hardly more equations than the batch has places.

    Args:
        reading: The convolution; its own slopes are not used.
        rows: Which outputs.
        found: The map, which is the convolution's input.
    """
    layer = reading.layer
    side = int(layer.weight.shape[2]), int(layer.weight.shape[3])
    patches = F.unfold(F.pad(found, layer.zeros), side, stride=layer.stride)
    matrix = patches.transpose(0, 1).flatten(1)
    if matrix.shape[0] < SPARE * matrix.shape[1]:
        return None
    slopes: Tensor = least_squares(matrix, reading.gradient[rows].flatten(1).T)
    return slopes.reshape(len(found), patches.shape[2], -1).transpose(1, 2)


def weight_gradient(layer: Convolution, inputs: Map, slopes: Map) -> Kernel:
    """Return the gradient of a convolution's weight, from its input and the slopes of the loss at its output."""
    shape = layer.weight.shape
    found: Kernel = grad.conv2d_weight(  # type: ignore[no-untyped-call]
        F.pad(inputs, layer.zeros), shape, slopes, stride=layer.stride, groups=layer.groups
    )
    return found


def input_slopes(layer: Convolution, kernel: Kernel, slopes: Map) -> Map:
    """Return the slopes of the loss at the input of a convolution with this kernel, from those at its output."""
    left, right, above, below = layer.zeros
    channels, height, width = layer.input_shape
    shape = (len(slopes), channels, height + above + below, width + left + right)
    found: Map = grad.conv2d_input(  # type: ignore[no-untyped-call]
        shape, kernel, slopes, stride=layer.stride, groups=layer.groups
    )
    return found[:, :, above : above + height, left : left + width]


def fitting_rows(off: Kernel, gradient: Kernel, kept: Float[Tensor, " out"]) -> Float[Tensor, " out"]:
    """Return 1 for the rows of a gradient that are explained as well as most rows that were used, and 0 for others.

    Args:
        off: What a map leaves unexplained of the gradient.
        gradient: The received gradient.
        kept: 1 for the rows that were used, and 0 for the others.
    """
    left = off.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp_min(1e-300)
    left = torch.where(gradient.flatten(1).any(1), left, 0.0)
    return (left <= max(OUTLYING * float(left[kept > 0].median()), ROUNDING)).to(kept)
