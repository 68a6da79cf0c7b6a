"""Whether a picture is one that a network was trained on, whatever size or quality it was saved in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from unveil.core.types import Images

SIDE = 16
BYTES = SIDE * SIDE // 8
ALIKE = 12  # bits of 256 by which two saved copies of one picture may differ
SHARE = 4  # at most 1/4 of the rarer bit value may differ, else pictures with few bits set match each other
FLAT = 0.02  # standard deviation below which a picture has no fingerprint
FAINT = 1 / 255  # a difference below is none: it would not survive being saved again


def fingerprints(images: Images) -> UInt8[Tensor, "n bytes"]:
    """256 bits a picture: where its light falls from one of 16 x 17 places to the next.

    Survives resizing, another compression and a change of brightness; a picture that is flat all over gets zeros.

    Reference:
        The difference hash of N. Krawetz, Kind of Like That, 2013.
    """
    grey = images.mean(1, keepdim=True)
    small = F.interpolate(grey, size=(SIDE, SIDE + 1), mode="area")[:, 0]
    bits = (small[:, :, :-1] - small[:, :, 1:] > FAINT).flatten(1)
    bits &= (small.flatten(1).std(1) > FLAT)[:, None]
    powers = 2 ** torch.arange(8, device=images.device)
    return (bits.reshape(len(bits), BYTES, 8) * powers).sum(2).to(torch.uint8)


def overlap(some: UInt8[Tensor, "n bytes"], others: UInt8[Tensor, "m bytes"]) -> Int[Tensor, " k"]:
    """Which of the first are among the second, by their fingerprints.

    That of a flat picture is matched by none.
    """
    table = torch.tensor([bin(value).count("1") for value in range(256)])
    some, others = some.cpu(), others.cpu()
    others = others[(others != 0).any(1)]
    if not len(some) or not len(others):
        return torch.zeros(0, dtype=torch.long)
    nearest = torch.stack([table[(row ^ others).long()].sum(1).min() for row in some])
    bits = table[some.long()].sum(1)
    allowed = (torch.minimum(bits, 8 * BYTES - bits) // SHARE).clamp_max(ALIKE)
    return ((nearest <= allowed) & (bits > 0)).nonzero()[:, 0]
