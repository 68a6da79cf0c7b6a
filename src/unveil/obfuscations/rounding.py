"""Stochastic rounding, which QSGD and TernGrad share: the rounding, and what a rounded value says of the true one."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from unveil.core import Block
from unveil.obfuscations.scope import uniform_like

SPREAD = 0.05  # least variance of a rounded entry that a belief takes for true, in squared steps
EDGE = 0.95  # beyond this fraction of a step the log-likelihood goes on as a straight line


def round_stochastically(values: Tensor, step: Tensor, generator: Generator) -> Tensor:
    """Round to a neighbouring multiple of the step, up with the probability that keeps the mean unbiased."""
    scaled = torch.where(step > 0, values.abs() / step.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    level = scaled.floor()
    level += uniform_like(values, generator) < scaled - level
    return values.sign() * level * step


def stochastic_penalty(x: Tensor, y: Tensor, step: Tensor | float) -> Tensor:
    """``-log P(y | x)``: the mass falls linearly to zero at one step's distance, ``P = 1 - |x - y| / step``.

    Beyond `EDGE` steps the tangent goes on, so that a candidate far from the truth still has a slope to follow. A step
    of zero means that the channel said nothing of this entry.
    """
    known = torch.as_tensor(step > 0, dtype=x.dtype, device=x.device)
    distance = (x - y).abs() / (step + (1 - known))
    inside = distance.clamp(max=EDGE)
    return known * (-torch.log1p(-inside) + (distance - inside) / (1 - EDGE))


def rounded_belief(received: Tensor, step: Tensor, expected: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """What was received, weighted by the inverse of the variance ``f (1 - f)`` that rounding has at the expected place.

    Most entries of a tensor scaled by its largest one are nearly certain to be rounded to zero, and those are as good
    as exact. `SPREAD` keeps the weights bounded where the expectation is wrong.
    """
    size = step[block]
    place = (expected / size.clamp_min(torch.finfo(size.dtype).tiny)).abs()
    fraction = place - place.floor()
    return received[block], (size > 0) * SPREAD / (fraction * (1 - fraction) + SPREAD)
