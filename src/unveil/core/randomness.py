"""The generators of one trial: one seed gives each party randomness of its own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator


def generators(seed: int, device: torch.device) -> tuple[Generator, Generator, Generator]:
    """Generators for the client, the obfuscation and the attack, so that none shifts what the others draw.

    Args:
        seed: At least 0.
        device: Where the client's pictures are, and the noise is drawn.
    """
    client, obfuscation, attack = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return (
        Generator(device).manual_seed(int(client)),
        Generator(device).manual_seed(int(obfuscation)),
        Generator(device).manual_seed(int(attack)),
    )
