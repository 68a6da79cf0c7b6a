"""Solve for the input of a convolution in front of BatchNorm in train mode, where its slopes depend on its output.

With the slopes S that the output would have in eval mode, the slopes in train mode are linear in the output too:

    D(x) = S - offset - rate * convolution(x)

so the received gradient of the weight is quadratic in the input x. Gauss and Newton's steps solve for it, each by
conjugate gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.separation.peeling.equations import (
    Kernel,
    Reading,
    fitting_rows,
    input_slopes,
    read_slopes,
    weight_gradient,
)
from unveil.attacks.separation.peeling.watch import Convolution, Map

NEWTON = 12  # most steps of Gauss and Newton for one set of rows
SETTLED = 2e-6  # share of the gradient that is left unexplained at which they end: the rounding of float32
SLOW = 0.3  # the same, as a share of what was left before the step
ROUNDS = 1000  # most steps of conjugate gradients in one step of Gauss and Newton
LEFT = 1e-14  # squared norm of what conjugate gradients leave, of that at the start
FIRST = 1e-4  # the same in the first step of Gauss and Newton


@dataclass(frozen=True, kw_only=True, eq=False)
class Coupling:
    """How the slopes at a convolution's output depend on the output; see the module.

    Args:
        rate: Factor of the output, per channel.
        shift: How much less the slope is where the output is the batch's mean, per channel.
        mean: The batch's mean of the output without the convolution's bias, per channel.
    """

    rate: Float[Tensor, " channels"]
    shift: Float[Tensor, " channels"]
    mean: Float[Tensor, " channels"]

    @property
    def offset(self) -> Float[Tensor, " channels"]:
        """How much less the slope is where the output is zero, per channel."""
        return self.shift - self.rate * self.mean

    def slopes(self, layer: Convolution, found: Map, evaluated: Map) -> Map:
        """Return the slopes at the output in train mode.

        Args:
            layer: The convolution.
            found: Its input.
            evaluated: The slopes at its output in eval mode.
        """
        return evaluated - self.offset[:, None, None] - self.rate[:, None, None] * output_of(layer, found)

    def evaluated(self, layer: Convolution, found: Map, slopes: Map) -> Map:
        """Return the slopes in eval mode, from those in train mode: the inverse of `slopes`."""
        return slopes + self.offset[:, None, None] + self.rate[:, None, None] * output_of(layer, found)


def output_of(layer: Convolution, found: Map, kernel: Kernel | None = None) -> Map:
    """Return the output of a convolution without its bias, or of one with another kernel."""
    weight = layer.weight.to(found) if kernel is None else kernel
    made: Map = F.conv2d(F.pad(found, layer.zeros), weight, stride=layer.stride)
    return made


def solve_coupled(
    layer: Convolution, gradient: Kernel, evaluated: Map, coupling: Coupling, *, start: Map | None = None
) -> tuple[Map, Map]:
    """Solve ``gradient = sum over places of D(x) x patches of x`` for the input x.

    Rows of the gradient whose slopes are wrong (a wrong gate touches one row) stand out by what they leave
    unexplained. They are dropped, and the rest is solved again. With the input known, the slopes of a dropped row
    follow from its gradient by least squares, if it has as many entries as there are places.

    Args:
        layer: The convolution.
        gradient: The received gradient of its weight, float64.
        evaluated: Slopes of the loss at its output in eval mode, one map for each image, float64.
        coupling: How the slopes depend on the output.
        start: The input at which the steps start; None for zeros.

    Returns:
        The input, and the slopes at the output in train mode.
    """
    shape = (len(evaluated), *layer.input_shape)
    kept = evaluated.new_ones(len(gradient))
    found = evaluated.new_zeros(shape) if start is None else start
    weight = float(gradient.norm() / coupling.mean.norm().clamp_min(1e-300))
    for _ in range(4):
        equations = _Equations(
            layer=layer,
            gradient=gradient,
            evaluated=evaluated,
            coupling=coupling,
            rows=kept[:, None, None, None],
            weight=weight,
        )
        found, off = _newton(equations, found)
        fits = fitting_rows(off, gradient, kept)
        if torch.equal(fits, kept) or float(fits.sum()) * gradient[0, 0].numel() < len(evaluated) * layer.places:
            break
        kept = fits
    slopes = coupling.slopes(layer, found, evaluated)
    wrong = kept == 0
    read = (
        read_slopes(Reading(layer=layer, gradient=gradient, slopes=slopes), wrong, found) if bool(wrong.any()) else None
    )
    if read is not None:
        slopes[:, wrong] = read.reshape(slopes[:, wrong].shape)
    return found, slopes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Equations:
    """The gradient of the weight and the mean of the output, as a function of the input.

    Without padding the gradient says nothing of an input that is the same at all places, because the slopes
    sum to zero per channel; the mean of the output does.

    Args:
        layer: The convolution.
        gradient: The received gradient of its weight.
        evaluated: Slopes of the loss at its output in eval mode.
        coupling: How the slopes depend on the output.
        rows: 1 for the rows of the gradient that count, 0 for the others, as out x 1 x 1 x 1.
        weight: How much the mean of the output counts.
    """

    layer: Convolution
    gradient: Kernel
    evaluated: Map
    coupling: Coupling
    rows: Kernel
    weight: float

    def left(self, found: Map) -> tuple[Kernel, Float[Tensor, " out"]]:
        """Return what an input leaves of the gradient and of the mean."""
        made = output_of(self.layer, found)
        slopes = self.evaluated - self.coupling.offset[:, None, None] - self.coupling.rate[:, None, None] * made
        off = self.gradient - weight_gradient(self.layer, found, slopes)
        return off, self.weight * (self.coupling.mean - made.mean((0, 2, 3)))

    def size(self, off: tuple[Kernel, Float[Tensor, " out"]]) -> float:
        """Return the length of what is left in the rows that count."""
        return float(((off[0] * self.rows).square().sum() + off[1].square().sum()).sqrt())

    def step(self, off: tuple[Kernel, Float[Tensor, " out"]], found: Map, rounds: int, until: float) -> Map:
        """Return the change of the input that explains best what is left, to first order, by conjugate gradients."""
        layer, rate = self.layer, self.coupling.rate[:, None, None]
        slopes, places = self.coupling.slopes(layer, found, self.evaluated), self.evaluated[:, 0].numel()

        def change(step: Map) -> tuple[Kernel, Float[Tensor, " out"]]:
            made = output_of(layer, step)
            moved = weight_gradient(layer, step, slopes) - weight_gradient(layer, found, rate * made)
            return moved * self.rows, self.weight * made.mean((0, 2, 3))

        def back(kernel: Kernel, mean: Float[Tensor, " out"]) -> Map:
            kernel = kernel * self.rows
            pulled = self.weight / places * mean[:, None, None] - rate * output_of(layer, found, kernel)
            return input_slopes(layer, kernel, slopes) + input_slopes(layer, layer.weight.to(found), pulled)

        target = back(*off)
        step, rest = torch.zeros_like(target), target.clone()
        direction, square, first = rest.clone(), float(rest.square().sum()), float(target.square().sum())
        for _ in range(rounds):
            if square <= until * first:
                break
            made = change(direction)
            length = square / float(made[0].square().sum() + made[1].square().sum())
            step += length * direction
            rest -= length * back(*made)
            square, before = float(rest.square().sum()), square
            direction = rest + square / before * direction
        return step


def _newton(equations: _Equations, found: Map) -> tuple[Map, Kernel]:
    """Return the input after some steps of Gauss and Newton, and what it leaves of the gradient."""
    off = equations.left(found)
    before, until = equations.size(off), FIRST
    whole = float(equations.gradient.norm())
    for _ in range(NEWTON):
        if before <= SETTLED * whole:
            break
        again = found + equations.step(off, found, ROUNDS, until)
        rest = equations.left(again)
        after = equations.size(rest)
        if not after < before:
            break
        found, off = again, rest
        if after > SLOW * before and until <= LEFT:
            break
        until = max(LEFT, until * min(0.01, (after / before) ** 2))
        before = after
    return found, off[0]
