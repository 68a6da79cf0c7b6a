"""Scores of a reconstruction: put into the originals' order, rounded to 8 bits, one value an image for each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.metric import Metric
from unveil.core.pixels import eight_bit
from unveil.core.reconstruction import Reconstruction, Stop
from unveil.core.types import Images
from unveil.metrics import CATALOGUE
from unveil.metrics.alignment import align


def score(
    originals: Images, guess: Reconstruction | Float[Tensor, "m c h w"], *, metrics: Mapping[str, Metric] = CATALOGUE
) -> dict[str, list[float]]:
    """How much of each original came back.

    Args:
        originals: The private pictures, n x c x h x w in [0, 1].
        guess: What an attack rebuilt of them, as many pictures in any order.
        metrics: Metrics by name.

    Returns:
        Metric name -> one value an original, in the originals' order; units and directions are `Metric`'s.

    Raises:
        UsageError: There are not as many reconstructions as originals, or the pictures do not suit a metric.
    """
    if not isinstance(guess, Reconstruction):
        guess = Reconstruction(
            images=guess, labels=torch.zeros(len(guess), dtype=torch.int64), losses=[], stop=Stop.FINISHED
        )
    aligned = align(originals, replace(guess, images=eight_bit(guess.images)))
    return {name: metric.score(originals, aligned.images).tolist() for name, metric in metrics.items()}
