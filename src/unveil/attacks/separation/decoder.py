"""A linear decoder from features to pictures, fitted to dead leaves in about a second.

The features at each place of the feature map and at its neighbours predict one patch of the picture, by ridge
regression. The variance of the features' errors is added to the diagonal of the regression, which makes it the Wiener
filter of the network: uncertain features count less. Decoding takes much less time than a search of a hundred steps, so
the decoded pictures are those from which the search starts.

Reference:
    Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949; the amortised inversion of one
    fixed network with synthetic pictures is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.body import Body
from unveil.core.types import Images

PICTURES, MOST = 32, 256  # pictures of dead leaves to which a decoder is fitted, at least and at most
PLENTY = 8  # places of feature maps for one input of the regression, for which more pictures are taken
AT_ONCE = 16  # of them that go through the body at a time
SAMPLES = 65_536  # places of feature maps to which a decoder is fitted, at most
WIDEST = 1200  # most inputs of the regression with neighbours; with more, each place is read without its neighbours
ENTRIES = 1 << 20  # inputs of the regression that are made at a time, or those of one picture if these are more
RIDGE = 1e-3  # ridge of the regression, in units of a standardised feature's variance


@dataclass(frozen=True, eq=False)
class Decoder:
    """The second moments of a regression from features to patches, which is solved for each noise level.

    Args:
        body: The body whose features are decoded.
        reach: Number of neighbours to each side that are read with a place: 0 or 1.
        mean: Mean of each feature channel.
        scale: Standard deviation of all features about the means of their channels.
        gram: Second moments of the inputs, which are standardised features and a one.
        cross: Second moments of the inputs with the pixels of the patches.
        patch: Side of a patch, in pixels.
        examples: Features of the dead leaves to which the decoder was fitted, one row for each picture.
    """

    body: Body
    reach: int
    mean: Float[Tensor, " channels"]
    scale: float
    gram: Float[Tensor, "inputs inputs"]
    cross: Float[Tensor, "inputs pixels"]
    patch: int
    examples: Float[Tensor, "examples features"]

    def __call__(self, features: Float[Tensor, "n features"], noise: float) -> Images:
        """Decode features to pictures.

        Args:
            features: The features, one row for each image.
            noise: Variance of the features' errors, in the squared unit of the features; at least 0.

        Returns:
            The pictures, n x c x h x w in [0, 1].
        """
        size = self.gram.shape[0]
        extra = (RIDGE + noise / self.scale**2) * torch.eye(size - 1, device=self.gram.device)
        gram = self.gram.clone()
        gram[:-1, :-1] += extra
        weights = torch.linalg.solve(gram, self.cross)
        _, height, width = self.body.image_shape
        maps = self.body.as_maps(features.float())
        each = _pictures_at_a_time(maps.shape[1:], size)
        patches = torch.cat(
            [_inputs(part, self.mean, self.scale, self.reach) @ weights for part in torch.split(maps, each)]
        )
        rows, columns = self.body.feature_map[1:]
        blocks = patches.reshape(len(features), rows, columns, -1).permute(0, 3, 1, 2)
        pictures = F.pixel_shuffle(blocks, self.patch)
        if pictures.shape[2:] != (height, width):
            pictures = F.interpolate(pictures, size=(height, width), mode="bilinear", align_corners=False)
        return pictures.clamp(0, 1)


def fit_decoder(body: Body, *, generator: Generator, plenty: bool = False) -> Decoder:
    """Fit a decoder to the features that the body computes from dead leaves.

    Args:
        body: The body whose features are decoded.
        generator: Randomness of the dead leaves and of the choice of places.
        plenty: Whether more pictures are taken where maps have few places.
    """
    channels, rows, columns = body.feature_map
    reach = 1 if 9 * channels <= WIDEST and min(rows, columns) > 1 else 0
    wanted = PLENTY * channels * (2 * reach + 1) ** 2 if plenty else 0
    pictures = min(max(PICTURES, math.ceil(wanted / (rows * columns))), MOST)
    leaves = dead_leaves(pictures, body.image_shape, generator=generator).to(body.device)
    with torch.no_grad():
        features = torch.cat([body.without_draws().features(part) for part in torch.split(leaves, AT_ONCE)])
    maps = body.as_maps(features.float())
    mean = maps.mean((0, 2, 3))
    scale = float((maps - mean[:, None, None]).std().clamp_min(1e-12))
    patch = math.ceil(max(body.image_shape[1] / rows, body.image_shape[2] / columns))
    target = leaves
    if (rows * patch, columns * patch) != body.image_shape[1:]:
        target = F.interpolate(leaves, size=(rows * patch, columns * patch), mode="bilinear", align_corners=False)
    pixels = F.pixel_unshuffle(target, patch).permute(0, 2, 3, 1).reshape(pictures * rows * columns, -1)
    chosen = torch.arange(len(pixels), device=pixels.device)
    if len(pixels) > SAMPLES:
        few = torch.randperm(len(pixels), generator=generator, device=generator.device)[:SAMPLES]
        chosen = few.to(pixels.device)
        pixels = pixels[chosen]
    inputs = maps.new_empty((len(chosen), channels * (2 * reach + 1) ** 2 + 1))
    each = _pictures_at_a_time(maps.shape[1:], inputs.shape[1])
    for number, part in enumerate(torch.split(maps, each)):
        found, first = _inputs(part, mean, scale, reach), number * each * rows * columns
        here = (chosen >= first) & (chosen < first + len(found))
        inputs[here] = found[chosen[here] - first]
    gram, cross = inputs.T @ inputs / len(inputs), inputs.T @ pixels / len(inputs)
    return Decoder(body, reach, mean, scale, gram, cross, patch, features)


def _pictures_at_a_time(feature_map: Sequence[int], inputs: int) -> int:
    """Return of how many pictures the inputs of the regression are made at a time.

    Args:
        feature_map: (channels, height, width) of the map of a picture.
        inputs: Inputs of the regression for each place of the map.
    """
    return max(1, ENTRIES // (feature_map[1] * feature_map[2] * inputs))


def _inputs(
    maps: Float[Tensor, "n channels h w"], mean: Float[Tensor, " channels"], scale: float, reach: int
) -> Float[Tensor, "places inputs"]:
    """Return the inputs of the regression for each place of the maps of some pictures."""
    return _windows(_standardised(maps, mean, scale), reach)


def _standardised(
    maps: Float[Tensor, "n channels h w"], mean: Float[Tensor, " channels"], scale: float
) -> Float[Tensor, "n channels h w"]:
    """Subtract each channel's mean and divide by the common standard deviation."""
    return (maps - mean[:, None, None]) / scale


def _windows(maps: Float[Tensor, "n channels h w"], reach: int) -> Float[Tensor, "places inputs"]:
    """Return the inputs of the regression: for each place its features, those of its neighbours, and a one.

    Args:
        maps: Standardised feature maps.
        reach: Number of neighbours to each side; beyond the border the outermost place is repeated.
    """
    n, _, rows, columns = maps.shape
    if reach:
        padded = F.pad(maps, (reach,) * 4, mode="replicate")
        maps = F.unfold(padded, 2 * reach + 1).reshape(n, -1, rows, columns)
    flat = maps.permute(0, 2, 3, 1).reshape(n * rows * columns, -1)
    return torch.cat([flat, flat.new_ones((len(flat), 1))], 1)
