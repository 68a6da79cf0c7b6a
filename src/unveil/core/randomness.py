"""The generators of one trial: client, obfuscation and attack each have one, made from the trial's seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def generators(seed: int, device: torch.device) -> tuple[Generator, Generator, Generator]:
    """Return generators for the client, the obfuscation and the attack; the draws of one do not shift another's.

    Args:
        seed: Seed of the trial, at least 0.
        device: Device of the client's pictures, on which the generators draw.
    """
    client, obfuscation, attack = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return (
        Generator(device).manual_seed(int(client)),
        Generator(device).manual_seed(int(obfuscation)),
        Generator(device).manual_seed(int(attack)),
    )
