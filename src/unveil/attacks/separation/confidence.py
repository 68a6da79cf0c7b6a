"""How sure an attack is of each of its pictures, told from what the attacker has: the update and the pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.types import FeatureFit, Images

LEAST = 1e-12


def confidence(images: Images, evidence: FeatureFit | None = None) -> Float[Tensor, " n"]:
    """A score that ranks pictures by how near to the truth they probably are; its size means nothing by itself.

    ``-log(mean |difference of neighbouring pixels|) - 2 log(miss)``. What a network and an obfuscation
    take away is detail, so a busy picture is further from its truth than a calm one; and a picture whose features
    could not be brought to where the update says they are is wrong somewhere.

    Args:
        images: What was rebuilt.
        evidence: What the update says of each image's features; None where the batch was not separated.

    Reference:
        Ours; docs/method.md says how well it ranks, and on what its form was chosen.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().flatten(1)
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1)
    busy = torch.cat([across, down], 1).mean(1)
    sure = -busy.clamp_min(LEAST).log()
    return sure if evidence is None else sure - 2 * evidence.miss.clamp_min(LEAST).log()
