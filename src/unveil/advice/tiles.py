"""Tiles of the built-in photographs: enough small pictures to train a federation on without a download."""

from __future__ import annotations

from pathlib import Path

import torch

from unveil.clients.pictures import BUILTIN_PICTURES, Pictures
from unveil.clients.pictures.decode import load_fitted
from unveil.core.errors import UsageError
from unveil.core.reads import shared_read

ACROSS = 8
"""Tiles in a row, and in a column, of one photograph."""


TEXTURES = ("retina", "writing", "galaxies", "bricks", "gravel", "grass", "clock", "cell", "vessels", "astronaut")
"""The photographs that are cut, which are the classes: ones whose tiles look alike."""


@shared_read
def tiles(count: int, *, size: tuple[int, int], channels: int, seed: int, skip: int = 0) -> Pictures:
    """Return tiles of the built-in photographs, which are their classes; no two of them overlap.

    Args:
        count: Number of tiles.
        size: Height and width of a tile in pixels.
        channels: 3 for RGB, 1 for grey.
        seed: Seed of the choice; classes take turns.
        skip: Number of chosen tiles to leave out, because an earlier call with this seed returned them.

    Raises:
        UsageError: There are too few tiles.
    """
    import skimage

    there = ACROSS * ACROSS * len(TEXTURES)
    if skip + count > there:
        raise UsageError(
            f"the built-in photographs have {there} tiles, and {skip + count} are wanted; lower clients, pictures, "
            "test or decoys, or give a folder of pictures"
        )
    folder = Path(skimage.__file__).parent / "data"
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    by_class = []
    for name in TEXTURES:
        whole = load_fitted(folder / BUILTIN_PICTURES[name], (ACROSS * height, ACROSS * width), channels)
        cut = whole.unfold(1, height, height).unfold(2, width, width).permute(1, 2, 0, 3, 4).flatten(0, 1)
        by_class.append(cut[torch.randperm(len(cut), generator=generator)])
    images = torch.stack(by_class, 1).flatten(0, 1)  # classes take turns
    labels = torch.arange(len(TEXTURES)).repeat(ACROSS * ACROSS)
    chosen = slice(skip, skip + count)
    return Pictures(images=images[chosen].contiguous(), labels=labels[chosen], class_names=TEXTURES)
