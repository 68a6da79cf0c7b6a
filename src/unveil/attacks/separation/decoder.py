"""A linear decoder from features to pictures, fitted in a second on dead leaves.

Each place of the feature map and its neighbours predict the patch of the picture beneath it, by ridge regression. With
the features' noise added to the diagonal this is the Wiener filter of the network: what is uncertain is shrunk. It
answers at once, where a search needs a hundred steps, and so gives the search a start and the separation its first
pictures.

Reference:
    Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949; the amortised inversion of one
    fixed network with synthetic pictures is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.heads.head import Head
from unveil.core.types import Images

PICTURES = 32
SAMPLES = 65_536  # places of feature maps to learn from, at most
WIDEST = 1200  # inputs of the regression: beyond, a place is read without its neighbours
RIDGE = 1e-3  # in units of a standardised feature's variance


@dataclass(frozen=True, eq=False)
class Decoder:
    """The regression's moments; solved anew for each noise level.

    Args:
        head: Whose features it reads.
        reach: Places to each side that are read with a place.
        mean: Of each feature channel.
        scale: Standard deviation of all features about their channel's mean.
        gram: Inputs' second moments.
        cross: Inputs' moments with the patches.
        patch: Pixels a side that one place stands for.
        examples: Features of the dead leaves it was fitted on.
    """

    head: Head
    reach: int
    mean: Tensor
    scale: float
    gram: Tensor
    cross: Tensor
    patch: int
    examples: Tensor

    def __call__(self, features: Float[Tensor, "n features"], noise: float) -> Images:
        """Pictures of features.

        Args:
            features: One row an image.
            noise: Variance of the features' errors.
        """
        size = self.gram.shape[0]
        extra = (RIDGE + noise / self.scale**2) * torch.eye(size - 1, device=self.gram.device)
        gram = self.gram.clone()
        gram[:-1, :-1] += extra
        weights = torch.linalg.solve(gram, self.cross)
        _, height, width = self.head.image_shape
        patches = _windows(self._standardised(features), self.reach) @ weights
        rows, columns = self.head.feature_map[1:]
        blocks = patches.reshape(len(features), rows, columns, -1).permute(0, 3, 1, 2)
        pictures = F.pixel_shuffle(blocks, self.patch)
        if pictures.shape[2:] != (height, width):
            pictures = F.interpolate(pictures, size=(height, width), mode="bilinear", align_corners=False)
        return pictures.clamp(0, 1)

    def _standardised(self, features: Tensor) -> Tensor:
        maps = self.head.as_maps(features.float())
        return (maps - self.mean[:, None, None]) / self.scale


def fit_decoder(head: Head, *, generator: Generator) -> Decoder:
    """Draw dead leaves, run the body on them, and gather the regression's moments."""
    leaves = dead_leaves(PICTURES, head.image_shape, generator=generator).to(head.weight(0).device)
    with torch.no_grad():
        features = torch.cat([head.without_draws().features(part) for part in torch.split(leaves, 16)])
    maps = head.as_maps(features.float())
    channels, rows, columns = head.feature_map
    mean = maps.mean((0, 2, 3))
    scale = float((maps - mean[:, None, None]).std().clamp_min(1e-12))
    reach = 1 if 9 * channels <= WIDEST and min(rows, columns) > 1 else 0
    patch = math.ceil(max(head.image_shape[1] / rows, head.image_shape[2] / columns))
    target = leaves
    if (rows * patch, columns * patch) != head.image_shape[1:]:
        target = F.interpolate(leaves, size=(rows * patch, columns * patch), mode="bilinear", align_corners=False)
    blocks = F.pixel_unshuffle(target, patch).permute(0, 2, 3, 1).reshape(PICTURES * rows * columns, -1)
    decoder = Decoder(head, reach, mean, scale, Tensor(), Tensor(), patch, features)
    inputs = _windows(decoder._standardised(features), reach)
    if len(inputs) > SAMPLES:
        chosen = torch.randperm(len(inputs), generator=generator, device=generator.device)[:SAMPLES].to(inputs.device)
        inputs, blocks = inputs[chosen], blocks[chosen]
    gram, cross = inputs.T @ inputs / len(inputs), inputs.T @ blocks / len(inputs)
    return Decoder(head, reach, mean, scale, gram, cross, patch, features)


def _windows(maps: Tensor, reach: int) -> Tensor:
    """Each place with its neighbours and a one, places x inputs."""
    n, _, rows, columns = maps.shape
    if reach:
        padded = F.pad(maps, (reach,) * 4, mode="replicate")
        maps = F.unfold(padded, 2 * reach + 1).reshape(n, -1, rows, columns)
    flat = maps.permute(0, 2, 3, 1).reshape(n * rows * columns, -1)
    return torch.cat([flat, flat.new_ones((len(flat), 1))], 1)
