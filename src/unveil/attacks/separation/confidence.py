"""Confidence: how an attack ranks its own pictures, from the update and the pictures alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.reconstruction import FeatureFit
from unveil.core.types import Images

LEAST = 1e-12  # smaller differences and misses are raised to this one, so that the logarithms are finite


def confidence(images: Images, evidence: FeatureFit | None = None) -> Float[Tensor, " n"]:
    """Compute a score that ranks pictures by how near to the original they probably are; its size has no unit.

    The score is ``-log(mean |difference of neighbouring pixels|) - 2 log(miss)``. Networks and obfuscations remove
    details, so a picture with many details is farther from its original than a smooth one. A picture is also wrong if
    the search could not give it the features that the update says it has.

    Args:
        images: The rebuilt pictures, n x c x h x w in [0, 1].
        evidence: The misses of the pictures' features; None if the batch was not separated, for a score without them.

    Returns:
        One score for each picture; higher is more certain.

    Reference:
        Ours; docs/method.md says how well it ranks, and on which pictures its form was chosen.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    busy = torch.cat([across, down], 1).mean(1)
    sure = -busy.clamp_min(LEAST).log()
    return sure if evidence is None else sure - 2 * evidence.miss.clamp_min(LEAST).log()
