"""The quasi-likelihood of a value that was rounded at random and then perturbed."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def quasi_likelihood(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], step: Float[Tensor, "*#shape"], constant: float
) -> Float[Tensor, "*shape"]:
    """What a received y says against each entry x: 0 where x = y, larger everywhere else.

    Its slope is ``(x - y) / V(x)`` with the variance ``V(x) = constant + step^2 f (1 - f)``, f the fraction of
    ``|x| / step``. Since the mean of y is the true value whatever was drawn, the mean slope is zero there.

    Args:
        x: Entries of a candidate.
        y: What was received for them.
        step: Distance of the levels of the rounding, at least 0; 0 for none. Of y's shape, or broadcast to it.
        constant: Variance that does not depend on x, greater than 0.

    Reference:
        Wedderburn, Quasi-Likelihood Functions, Generalized Linear Models, and the Gauss-Newton Method, Biometrika 1974.
    """
    value: Float[Tensor, "*shape"] = _QuasiLikelihood.apply(x, y, step, constant)
    return value


class _QuasiLikelihood(torch.autograd.Function):
    """The integral of the slope from y to x in closed form, and the slope, in float64."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*shape"],
        y: Float[Tensor, "*shape"],
        step: Float[Tensor, "*#shape"],
        constant: float,
    ) -> Float[Tensor, "*shape"]:
        place, received, size = x.double(), y.double(), step.double()
        rounded = size > 0
        unit = torch.where(rounded, size, constant**0.5)  # without a rounding: V is constant
        place, received = place / unit, received / unit
        share = torch.where(rounded, constant / unit.square(), 1.0)
        fraction = (place.abs() - place.abs().floor()) * rounded
        slope = (place - received) / (fraction * (1 - fraction) + share) / unit
        ctx.save_for_backward(slope.to(x.dtype))
        plain = (place - received).square() / 2
        cells = _integral(place, received, share) - _integral(received, received, share)
        return torch.where(rounded, cells, plain).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"] | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None, None


def _integral(
    place: Float[Tensor, "*shape"], received: Float[Tensor, "*#shape"], share: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """``int_0^place (t - received) / (f (1 - f) + share) dt`` in units of the step, f the fraction of ``|t|``.

    Both signs are brought to positive t. A whole cell from k to k + 1 adds ``(k + 1/2 - received) whole``, where
    `whole` is the integral of ``1 / (f (1 - f) + share)`` over it, since f (1 - f) is symmetric; the last cell adds
    the part up to f.
    """
    received = received * place.sign()
    count, root = place.abs().floor(), (1 + 4 * share).sqrt()
    fraction = place.abs() - count
    high, low = (1 + root) / 2, (root - 1) / 2  # f (1 - f) + share = (high - f) (low + f)
    whole = 2 * (high / low).log() / root
    start = (count.square() / 2 - received * count) * whole
    rise, fall = torch.log1p(fraction / low), torch.log1p(-fraction / high)
    flat = (rise - fall) / root  # int_0^f 1 / (...)
    slanted = -(low * rise + high * fall) / root  # int_0^f t / (...)
    return start + (count - received) * flat + slanted
