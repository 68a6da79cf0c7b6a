"""Stochastic rounding, which QSGD and TernGrad share: the rounding, and what a rounded value says of the true one."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from unveil.obfuscations.scope import uniform_like

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
