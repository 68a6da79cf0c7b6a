"""The generators of one trial: client, obfuscation and attack each have one, made from the trial's seed."""

from __future__ import annotations

import numpy as np
from torch import Generator


def generators(seed: int) -> tuple[Generator, Generator, Generator]:
    """Return generators for the client, the obfuscation and the attack; the draws of one do not shift another's.

    They draw on the processor, whatever device the client is on: a card's own generators draw other numbers.

    Args:
        seed: Seed of the trial, at least 0.
    """
    client, obfuscation, attack = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return (
        Generator().manual_seed(int(client)),
        Generator().manual_seed(int(obfuscation)),
        Generator().manual_seed(int(attack)),
    )
