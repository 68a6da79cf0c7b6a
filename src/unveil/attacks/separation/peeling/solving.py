"""Solve for the input of a convolution, from the gradient of its weight and the slopes of the loss at its output."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import grad

from unveil.attacks.separation.peeling.watch import Convolution, Map

RIDGE = 1e-13  # of the mean squared singular value: keeps directions of no information at zero
LEFT = 1e-22  # squared norm of what conjugate gradients leave, of that at the start


Kernel = Float[Tensor, "_ _ _ _"]
"""The weight of a convolution or its gradient, out x in x height x width."""


def weight_gradient(layer: Convolution, inputs: Map, slopes: Map) -> Kernel:
    """Return the gradient of a convolution's weight, from its input and the slopes of the loss at its output."""
    shape = layer.weight.shape
    found: Kernel = grad.conv2d_weight(  # type: ignore[no-untyped-call]
        inputs, shape, slopes, stride=layer.stride, padding=layer.padding
    )
    return found


def input_slopes(layer: Convolution, kernel: Kernel, slopes: Map) -> Map:
    """Return the slopes of the loss at the input of a convolution with this kernel, from those at its output."""
    shape = (len(slopes), *layer.input_shape)
    found: Map = grad.conv2d_input(  # type: ignore[no-untyped-call]
        shape, kernel, slopes, stride=layer.stride, padding=layer.padding
    )
    return found


def solve_input(
    layer: Convolution, gradient: Kernel, slopes: Map, *, rounds: int, start: Map | None = None
) -> tuple[Map, float]:
    """Solve ``gradient = sum over places of slopes x patches`` for the input by conjugate gradients.

    Rows of the gradient whose slopes are wrong (a wrong gate touches one row) stand out by what they leave
    unexplained. They are dropped, and the rest is solved again.

    Args:
        layer: The convolution.
        gradient: The received gradient of its weight, float64.
        slopes: Slopes of the loss at its output, one map for each image, float64.
        rounds: Most steps of conjugate gradients.
        start: The input at which they start; None for zeros.

    Returns:
        The input, and the share of the used rows' norm that it leaves unexplained.
    """
    shape = (len(slopes), *layer.input_shape)
    kept = slopes.new_ones(len(gradient))
    found = slopes.new_zeros(shape) if start is None else start
    left = torch.ones_like(kept)
    for _ in range(4):
        used = slopes * kept[:, None, None]
        found = _conjugate_gradients(layer, gradient * kept[:, None, None, None], used, found, rounds)
        off = weight_gradient(layer, found, slopes) - gradient
        left = off.flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp_min(1e-300)
        left = torch.where(gradient.flatten(1).any(1), left, 0.0)
        fits = (left <= max(8 * float(left[kept > 0].median()), 1e-6)).to(kept)
        if torch.equal(fits, kept) or float(fits.sum()) * gradient[0, 0].numel() < len(slopes) * layer.places:
            break
        kept = fits
    rows = kept > 0
    return found, float(off[rows].norm() / gradient[rows].norm().clamp_min(1e-300))


def _conjugate_gradients(layer: Convolution, gradient: Kernel, slopes: Map, start: Map, rounds: int) -> Map:
    """Minimise ``||A x - gradient||^2 + ridge ||x||^2``, where A x is the gradient of the weight at input x."""

    def normal(x: Map) -> Map:
        return input_slopes(layer, weight_gradient(layer, x, slopes), slopes)

    probe = torch.ones_like(start)
    ridge = RIDGE * float((probe * normal(probe)).sum() / probe.square().sum())
    found = start.clone()
    target = input_slopes(layer, gradient, slopes)
    rest = target - normal(found) - ridge * found
    direction, square, first = rest.clone(), float(rest.square().sum()), float(target.square().sum())
    for _ in range(rounds):
        if square <= LEFT * first:
            break
        moved = normal(direction) + ridge * direction
        step = square / float((direction * moved).sum())
        found += step * direction
        rest -= step * moved
        square, before = float(rest.square().sum()), square
        direction = rest + square / before * direction
    return found
