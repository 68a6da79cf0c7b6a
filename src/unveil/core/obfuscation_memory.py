"""The size of an update, and about how much memory an obfuscation needs beside the one that it is given."""

from __future__ import annotations

import torch
from torch import Generator
from torch.nn import Module

from unveil.core.binding import for_receiver
from unveil.core.live_bytes import LiveBytes
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update

TRIED = (512, 256)
"""Rows and columns of the matrix on which an obfuscation is tried."""

MOST = 5.0
"""Copies that are taken for true of an obfuscation that cannot be tried on a matrix alone."""


def update_bytes(model: Module) -> int:
    """Return the size of an update, which is that of the trained weights, in bytes."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def obfuscating_copies(obfuscation: Obfuscation | None) -> float:
    """Return how many copies of the update an obfuscation has at its peak, beside the one that it is given.

    They are counted on a small matrix, because the numbers of large tensors grow alike.

    Args:
        obfuscation: The obfuscation; None for none.
    """
    if obfuscation is None:
        return 0.0
    generator = Generator().manual_seed(0)
    update = Update({"tried": torch.randn(TRIED, generator=generator)})
    try:
        with LiveBytes() as live:
            for_receiver(obfuscation, update)(update, generator=generator)
    except Exception:  # other people's code; where an audit runs it on the client's update its own error is told
        return MOST
    return float(live.peak) / (4 * TRIED[0] * TRIED[1])
