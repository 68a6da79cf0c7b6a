"""The suite's own randomness: one environment variable shifts every seed, so that no test passes by the luck of one.

UNVEIL_TEST_SEED=1 make test
"""

from __future__ import annotations

import os

from torch import Generator

SHIFT = int(os.environ.get("UNVEIL_TEST_SEED", "0"))


def shifted(seed: int = 0) -> int:
    """The seed of this run: far from those of other runs, and the seed itself where nothing was shifted."""
    return seed + 100_003 * SHIFT


def seeded(seed: int = 0) -> Generator:
    """A generator on the processor with the shifted seed."""
    return Generator().manual_seed(shifted(seed))
