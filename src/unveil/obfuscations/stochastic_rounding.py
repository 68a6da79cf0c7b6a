"""Stochastic rounding, which QSGD and TernGrad share: the rounding, and what a rounded value says of the true one."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from unveil.core.types import Block
from unveil.obfuscations.draws import uniform_like
from unveil.obfuscations.numerics import HALVES, narrowed

SPREAD = 0.05  # variance taken for true beside that of the rounding, in squared steps
ROOT = math.sqrt(1 + 4 * SPREAD)
HIGH, LOW = (1 + ROOT) / 2, (1 - ROOT) / 2  # where the variance d (1 - d) + SPREAD is zero
AT_ZERO = (LOW * math.log(-LOW) - HIGH * math.log(HIGH)) / ROOT


def round_stochastically(
    values: Float[Tensor, "groups entries"],
    step: Float[Tensor, "groups 1"],
    generator: Generator,
    *,
    dtype: torch.dtype | None = None,
    drawn: int | None = None,
) -> Float[Tensor, "groups entries"]:
    """Round to a neighbouring multiple of the step, up with the probability that keeps the mean unbiased.

    Args:
        values: Groups x entries, float32 or float64 (`numerics.wide`).
        step: One for each group, groups x 1.
        generator: Source of the randomness.
        dtype: The type that the result will be held in. In half precision the multiples are not exact, so there the
            probability is that of the two neighbours as they will be held.
        drawn: Random numbers drawn for each group, where that is more than it has entries.
    """
    scaled = values.abs().div_(step.clamp_min(torch.finfo(values.dtype).tiny))
    level = scaled.floor()
    size = values.shape[1]
    chance = uniform_like(values.new_empty(()).expand(len(values), max(drawn or size, size)), generator)[:, :size]
    if dtype in HALVES:
        low, high = (narrowed(multiple * step, dtype).to(values.dtype) for multiple in (level, level + 1))
        place = (values.abs() - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
        return values.sign() * torch.where(chance < place, high, low)
    level += chance < scaled.sub_(level)
    return values.sign().mul_(level).mul_(step)


def stochastic_penalty(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], step: Float[Tensor, "*#shape"] | float
) -> Float[Tensor, "*shape"]:
    """What a rounded value y says against a candidate x, at a distance of d steps: a quasi-likelihood.

    Rounding up with probability f has the variance ``f (1 - f)``. The slope is that of a Gaussian of this variance and
    `SPREAD`, ``d / (d (1 - d) + SPREAD)`` up to one step and its last value beyond. At a true value between two levels
    the slopes of the two, each with its probability, cancel out, so the mean over the rounding is lowest at the truth;
    the log-likelihood ``-log(1 - d)`` is the limit for a `SPREAD` of 0, and has no slope to follow beyond one step.
    A step of zero means that the obfuscation said nothing of this entry.

    Reference:
        Wedderburn, Quasi-Likelihood Functions, Generalized Linear Models, and the Gauss-Newton Method, Biometrika 1974.
    """
    if isinstance(step, Tensor):
        inverse: Float[Tensor, "*#shape"] | float = torch.where(
            step > 0, (1 / step).clamp(max=torch.finfo(step.dtype).max), 0.0
        )
    else:
        inverse = min(1 / step, 1e38) if step > 0 else 0.0
    penalty: Float[Tensor, "*shape"] = _QuasiLikelihood.apply(x, y, inverse)
    return penalty


class _QuasiLikelihood(torch.autograd.Function):
    """Value and slope in one go, which halves the time; the integral of the slope by partial fractions."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], inverse: Float[Tensor, "*#shape"] | float
    ) -> Float[Tensor, "*shape"]:
        offset = (x - y).mul_(inverse)
        distance = offset.abs()
        inside = distance.clamp(max=1)
        slope = offset.div_((1 - inside).mul_(inside).add_(SPREAD)).clamp_(-1 / SPREAD, 1 / SPREAD).mul_(inverse)
        ctx.save_for_backward(slope)
        value = (inside - LOW).log_().mul_(LOW / ROOT).sub_((HIGH - inside).log_().mul_(HIGH / ROOT))
        return value.add_(distance.sub_(inside).div_(SPREAD)).sub_(AT_ZERO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"] | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


def rounded_belief(
    received: Float[Tensor, "rows columns"],
    step: Float[Tensor, "*shape"],
    expected: Float[Tensor, "some few"],
    block: Block,
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    """What was received, weighted by the inverse of the variance ``f (1 - f)`` that rounding has at the expected place.

    Most entries of a tensor scaled by its largest one are nearly certain to be rounded to zero, and those are as good
    as exact. `SPREAD` keeps the weights bounded where the expectation is wrong.

    Args:
        received: The matrix that was received.
        step: Distance of its levels, 0-dimensional or of its shape; 0 where nothing is known.
        expected: What is expected of the block.
        block: Rows and columns.
    """
    size = (step[block] if step.dim() else step).to(expected.dtype)
    place = (expected / size.clamp_min(torch.finfo(size.dtype).tiny)).abs()
    fraction = place - place.floor()
    return received[block], (size > 0) * SPREAD / (fraction * (1 - fraction) + SPREAD)
