"""What the local trainings share of differential privacy: the checks of settings, and the noise."""

from __future__ import annotations

import torch
from torch import Generator

from unveil.core.bounds import not_negative, positive
from unveil.core.errors import UsageError
from unveil.core.loss import Reduction
from unveil.core.types import Tensors


def noised(tensors: Tensors, sigma: float, generator: Generator | None) -> Tensors:
    """Add Gaussian noise of standard deviation `sigma` to every entry.

    Raises:
        UsageError: There is noise to add, and no generator.
    """
    if not sigma:
        return tensors
    if generator is None:
        raise UsageError("training: noise needs a generator; pass generator=torch.Generator().manual_seed(0)")
    return {
        name: t + sigma * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)
        for name, t in tensors.items()
    }


def check_privacy(who: str, clip: float | None, noise: float, expected: float | None, reduction: Reduction) -> None:
    """Raise a `UsageError` unless the settings of DP-SGD fit together.

    Args:
        who: Name of the local training, for the message.
        clip: Clipping norm of each example's gradient; positive, or None.
        noise: Noise multiplier; 0, or positive with a `clip`.
        expected: Expected batch size; only with a `clip` and a mean loss.
        reduction: Whether the loss is a mean or a sum.
    """
    if clip is not None:
        positive(who, "clip", clip, "leave it out for no clipping")
    not_negative(who, "noise", noise, "0 switches it off")
    if noise and clip is None:
        raise UsageError(f"{who}: noise is a multiple of the clipping norm; give clip as well, such as clip=1")
    not_negative(who, "noise * clip", noise * (clip or 0.0), "it is the noise's standard deviation")
    if expected is None:
        return
    positive(who, "`expected`", expected, "it is the expected batch size; leave it out to divide by the actual one")
    if clip is None:
        raise UsageError(f"{who}: expected divides the sum of clipped gradients; give clip as well, such as clip=1")
    if reduction == "sum":
        raise UsageError(f"{who}: a sum is not divided by the number of pictures; leave expected or reduction=sum out")
