"""The patches of a picture as a grid, and the low frequencies of each patch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.tokens.embedding import PatchEmbedding
from unveil.core.types import Images

FREQUENCIES = 4  # of a patch along each axis; those above leave 26 dB at 64 px with patches of 8 px


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """Patches side by side, all of one size.

    Args:
        order: The token at each place of the grid.
        corner: Row and column of the first pixel.
        patch: Height and width of a patch, in pixels.
        image_shape: (channels, height, width) of a picture.
    """

    order: Int[Tensor, "rows columns"]
    corner: tuple[int, int]
    patch: tuple[int, int]
    image_shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Number of frequencies that are kept of a patch, over all channels."""
        return self.image_shape[0] * min(FREQUENCIES, self.patch[0]) * min(FREQUENCIES, self.patch[1])

    def as_map(self, tokens: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n width rows columns"]:
        """Return rows of tokens as a map."""
        return tokens[:, self.order].permute(0, 3, 1, 2)

    def frequencies(self, images: Images) -> Float[Tensor, "n size rows columns"]:
        """Return the lowest frequencies of each patch, by the orthonormal discrete cosine transform (DCT-II)."""
        (top, left), (height, width), (rows, columns) = self.corner, self.patch, self.order.shape
        inside = images[:, :, top : top + rows * height, left : left + columns * width]
        patches = inside.reshape(len(images), -1, rows, height, columns, width)
        down, across = (_cosines(side).to(images) for side in self.patch)
        return torch.einsum("ncriks,fi,gs->ncfgrk", patches, down, across).reshape(len(images), -1, rows, columns)

    def pictures(self, frequencies: Float[Tensor, "n size rows columns"]) -> Images:
        """Return pictures with these frequencies; pixels outside all patches repeat those at the edge."""
        (top, left), (height, width), (rows, columns) = self.corner, self.patch, self.order.shape
        down, across = (_cosines(side).to(frequencies) for side in self.patch)
        split = frequencies.reshape(len(frequencies), -1, len(down), len(across), rows, columns)
        inside = torch.einsum("ncfgrk,fi,gs->ncriks", split, down, across)
        inside = inside.reshape(len(frequencies), -1, rows * height, columns * width)
        below, right = self.image_shape[1] - top - rows * height, self.image_shape[2] - left - columns * width
        return F.pad(inside, (left, right, top, below), mode="replicate")


def read_grid(embedding: PatchEmbedding, image_shape: tuple[int, int, int]) -> PatchGrid | None:
    """Return the grid of an embedding's patches; None if they are not rectangles of one size side by side.

    Args:
        embedding: The patch embedding.
        image_shape: (channels, height, width) of a picture.
    """
    channels, height, width = image_shape
    at = embedding.pixels % (height * width)
    down, across = at // width, at % width
    corners = [(int(r), int(c)) for r, c in zip(down.amin(1), across.amin(1), strict=True)]
    rows, columns = sorted({r for r, _ in corners}), sorted({c for _, c in corners})
    tall, wide = int(down[0].max() - down[0].min()) + 1, int(across[0].max() - across[0].min()) + 1
    evenly = rows == list(range(rows[0], rows[-1] + 1, tall)) and columns == list(
        range(columns[0], columns[-1] + 1, wide)
    )
    if not evenly or len(rows) * len(columns) != len(corners) or at.shape[1] != channels * tall * wide:
        return None
    token = {corner: number for number, corner in enumerate(corners)}
    if len(token) != len(corners):
        return None
    order = torch.tensor([[token[r, c] for c in columns] for r in rows], device=at.device)
    return PatchGrid(order, (rows[0], columns[0]), (tall, wide), image_shape)


def _cosines(side: int) -> Float[Tensor, "frequencies side"]:
    """Return the lowest rows of the orthonormal DCT-II of this length."""
    kept = torch.arange(min(FREQUENCIES, side))[:, None]
    basis = torch.cos(math.pi * (torch.arange(side)[None] + 0.5) * kept / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis
