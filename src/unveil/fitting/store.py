"""Training batches of the pairs on disk; held-out clients are kept apart, and each batch has one size of pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.files import shown
from unveil.core.pixels import to_bytes
from unveil.fitting.pairs import Pairs, held_out, pictures_of


class PairStore:
    """All pairs of some folders, in memory, with 8 bits for each value.

    Args:
        folders: Folders into which `produce` wrote the pairs.

    Attributes:
        pictures: Fingerprints of all source pictures.
        validation: The pairs of held-out clients, which are not trained on.

    Raises:
        UsageError: There are pairs of fewer than 2 clients, or a file is damaged.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        files = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
        for path in files:
            if not path.stem.isdecimal():
                raise UsageError(f"{shown(path)} has no client's number as its name; move it away")
        self.pictures = torch.cat([pictures_of(folder) for folder in folders])
        self.validation = [Pairs.load(path) for path in files if held_out(int(path.stem))]
        sizes: dict[int, list[Pairs]] = defaultdict(list)
        for path in files:
            if not held_out(int(path.stem)):
                pairs = Pairs.load(path)
                sizes[pairs.truth.shape[-1]].append(pairs)
        if not sizes or not self.validation:
            raise UsageError(f"{', '.join(map(str, folders))}: expected pairs of at least 2 clients, got {len(files)}")
        self.groups = {size: _Group(found) for size, found in sizes.items()}
        counts = np.array([len(group.truth) for group in self.groups.values()], float)
        self.shares = counts / counts.sum()

    def __len__(self) -> int:
        return sum(len(group.truth) for group in self.groups.values())

    def draw(self, count: int, *, crop: int, random: np.random.Generator) -> Pairs:
        """Draw pairs of one size; all are cropped, mirrored and turned in the same random way.

        Args:
            count: Number of pairs.
            crop: Largest side in pixels; larger pictures are cropped, and only those are turned.
            random: Source of randomness.
        """
        size = int(random.choice(list(self.groups), p=self.shares))
        group = self.groups[size]
        rows = torch.from_numpy(random.integers(len(group.truth), size=count))
        side = min(crop, size)
        top, left = random.integers(size - side + 1, size=2)
        flip, turn = bool(random.random() < 0.5), bool(random.random() < 0.5) and side < size

        def cut(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "count 3 side side"]:
            part = images[rows][..., top : top + side, left : left + side].float() / 255
            part = part.flip(-1) if flip else part
            return part.transpose(-1, -2) if turn else part

        return Pairs(rough=cut(group.rough), truth=cut(group.truth), hints=group.hints[rows], labels=group.labels[rows])


class _Group:
    """All pairs of pictures of one size."""

    def __init__(self, pairs: Sequence[Pairs]) -> None:
        self.rough = torch.cat([to_bytes(p.rough) for p in pairs])
        self.truth = torch.cat([to_bytes(p.truth) for p in pairs])
        self.hints = torch.cat([p.hints for p in pairs])
        self.labels = torch.cat([p.labels for p in pairs])
