"""Scoring a reconstruction: its pictures are rounded to 8 bits, aligned with the originals, and given to metrics."""

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
    """Score how much of each original was recovered.

    Args:
        originals: The private pictures, n x c x h x w in [0, 1].
        guess: The reconstruction, or its pictures: as many as originals, in any order.
        metrics: Metrics by name.

    Returns:
        Metric name -> one value for each original, in the originals' order, in the unit of the metric.

    Raises:
        UsageError: The numbers of reconstructions and originals differ, or a metric cannot score these pictures.
    """
    if not isinstance(guess, Reconstruction):
        guess = Reconstruction(
            images=guess, labels=torch.zeros(len(guess), dtype=torch.int64), losses=[], stop=Stop.FINISHED
        )
    aligned = align(originals, replace(guess, images=eight_bit(guess.images)))
    return {name: metric.score(originals, aligned.images).tolist() for name, metric in metrics.items()}
