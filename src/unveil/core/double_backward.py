"""Second derivatives of operations that torch differentiates only once.

An attack that matches updates differentiates a gradient. Torch 2 has no second derivative for two operations of
common networks: the hard sigmoid of MobileNetV3, and fused attention. Both are replaced by equal expressions that have.
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
    """Give hard sigmoids and attention inside the `with` block second derivatives; values change only by rounding."""
    with sdpa_kernel(SDPBackend.MATH), _HardSigmoid():
        yield


class _HardSigmoid(TorchFunctionMode):
    """Replaces torch's hard sigmoid by ``clamp(x / 6 + 1 / 2, 0, 1)``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") not in ("hardsigmoid", "hardsigmoid_"):
            return func(*args, **kwargs)
        given = dict(zip(("input", "inplace"), args, strict=False)) | kwargs
        values: Tensor = given["input"]
        sigmoid = torch.clamp(values / 6 + 0.5, 0, 1)
        return values.copy_(sigmoid) if given.get("inplace") or func.__name__.endswith("_") else sigmoid
