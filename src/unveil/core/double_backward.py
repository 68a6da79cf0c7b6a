"""Operations that torch differentiates once only, done in a way that it differentiates twice.

An attack that matches updates needs the slope of a gradient. Torch 2 has no second derivative for two operations of
common networks: the hard sigmoid of MobileNetV3, and fused attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Networks that run inside have a second derivative where they have a first; values change by rounding alone."""
    with sdpa_kernel(SDPBackend.MATH), _HardSigmoid():
        yield


class _HardSigmoid(TorchFunctionMode):
    """Puts clamp(x / 6 + 1 / 2, 0, 1) in the place of torch's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in ("hardsigmoid", "hardsigmoid_"):
            return func(*args, **kwargs)
        given = dict(zip(("input", "inplace"), args, strict=False)) | kwargs
        values: Tensor = given["input"]
        sigmoid = torch.clamp(values / 6 + 0.5, 0, 1)
        return values.copy_(sigmoid) if given.get("inplace") or func.__name__.endswith("_") else sigmoid
