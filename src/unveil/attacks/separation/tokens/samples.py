"""Synthetic pictures with the errors of their tokens, from which sums over a batch are drawn.

The errors of a picture depend on its label and hardly on the other pictures of the batch, so the errors of n pictures
of one label each give n^B sums for a batch of B labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.tokens.errors import token_errors
from unveil.attacks.separation.tokens.grid import PatchGrid
from unveil.core.loss import MEAN, Loss
from unveil.core.types import Images

ENTRIES = 100_000_000  # of all errors together, at most
VARIED = 0.8  # share of the pictures whose light and contrast are changed
LIGHT = (0.12, 0.88)  # range of their mean, in pixel values
CONTRAST = (0.2, 1.3)  # range of the factor of their contrast
HUE = 0.08  # standard deviation of the change of each colour, in pixel values


@dataclass(frozen=True, eq=False)
class Samples:
    """Synthetic pictures of each label of a batch.

    Args:
        frequencies: The pictures' frequencies; see `PatchGrid`.
        errors: The errors of their tokens, as maps.
        features: Their features in front of the last Linear layer.
    """

    frequencies: Float[Tensor, "samples n size rows columns"]
    errors: Float[Tensor, "samples n width rows columns"]
    features: Float[Tensor, "samples n features"]

    def mixed(
        self, count: int, *, generator: Generator
    ) -> tuple[
        Float[Tensor, "count width rows columns"],
        Float[Tensor, "count n features"],
        Float[Tensor, "count n size rows columns"],
    ]:
        """Draw batches: the sums of their errors, their features and their frequencies.

        Args:
            count: Number of batches.
            generator: Randomness of the choice.
        """
        samples, n = self.features.shape[:2]
        device = generator.device
        chosen = torch.randint(samples, (count, n), generator=generator, device=device).to(self.errors.device)
        label = torch.arange(n, device=chosen.device)
        total = torch.stack([self.errors[chosen[:, k], k] for k in range(n)]).sum(0)
        return total, self.features[chosen, label], self.frequencies[chosen, label]


def varied_leaves(count: int, image_shape: tuple[int, int, int], *, generator: Generator) -> Images:
    """Draw dead leaves, most of them with another light, contrast and hue: photographs are dark, pale or tinted too.

    Args:
        count: Number of pictures.
        image_shape: (channels, height, width).
        generator: Randomness of the pictures; they are returned on its device.
    """
    leaves, device = dead_leaves(count, image_shape, generator=generator), generator.device
    light, contrast, chosen = (torch.rand((3, count, 1, 1, 1), generator=generator, device=device)).unbind()
    hue = HUE * torch.randn((count, image_shape[0], 1, 1), generator=generator, device=device)
    light, contrast = (low + (high - low) * x for x, (low, high) in ((light, LIGHT), (contrast, CONTRAST)))
    changed = light + hue + contrast * (leaves - leaves.mean((2, 3), keepdim=True))
    return torch.where(chosen < VARIED, changed.clamp(0, 1), leaves)


def draw_samples(
    client: Module,
    labels: Int[Tensor, " n"],
    grid: PatchGrid,
    *,
    count: int,
    embedding: str,
    last: str,
    generator: Generator,
    loss: Loss = MEAN,
) -> Samples:
    """Draw synthetic pictures, and compute the errors of their tokens with the labels of the batch.

    Args:
        client: The network in the client's mode; it is not changed.
        labels: The labels of the batch.
        grid: The grid of its patches.
        count: Number of pictures of each label, at least 2; fewer are drawn if they would have too many `ENTRIES`.
        embedding: Name of the patch embedding's weight.
        last: Name of the last Linear layer's weight.
        generator: Randomness of the pictures.
        loss: The client's loss; it is taken as a mean over the pictures.
    """
    n = len(labels)
    frequencies, errors, features = list[Tensor](), list[Tensor](), list[Tensor]()
    while len(errors) < count:
        pictures = varied_leaves(n, grid.image_shape, generator=generator).to(labels.device)
        own, seen = token_errors(client, pictures, labels, embedding=embedding, last=last, loss=loss)
        frequencies.append(grid.frequencies(pictures))
        errors.append(grid.as_map(own))
        features.append(seen)
        count = max(2, min(count, ENTRIES // own.numel()))
    return Samples(torch.stack(frequencies), torch.stack(errors), torch.stack(features))
