"""Activation checkpointing, which a network must not use while it is audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.utils.checkpoint

NO_CHECKPOINTS = "activation checkpointing is not supported; switch it off for the audit, which changes no result"


class _Refused:
    """Stands for the function by which torch runs a reentrant checkpoint, which has no gradient for pictures."""

    @staticmethod
    def apply(*args: Any) -> NoReturn:
        """Refuse."""
        raise RuntimeError(NO_CHECKPOINTS)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Refuse activation checkpoints inside the `with` block, with a `RuntimeError`.

    They use hooks on saved tensors, or a function of their own; they would run parts again after the weights were put
    back, and lose their gradient.
    """
    module: Any = torch.utils.checkpoint
    known = module.CheckpointFunction
    module.CheckpointFunction = _Refused
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(NO_CHECKPOINTS):
            yield
    finally:
        module.CheckpointFunction = known
