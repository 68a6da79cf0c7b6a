"""Fingerprints of pictures, which tell whether a network was trained on a picture, even in another size or quality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unveil.core.types import Images

SIDE = 16  # rows of the reduced picture that is fingerprinted; it has one column more
BYTES = SIDE * SIDE // 8  # length of a fingerprint
ALIKE = 12  # most bits of 256 in which the fingerprints of two saved copies of a picture may differ
SHARE = 4  # at most 1/4 of the rarer bit value may differ, else pictures with few bits set match each other
FLAT = 0.02  # a reduced picture with a smaller standard deviation has no fingerprint
ROWS = 256  # fingerprints that are compared with all others at once
FAINT = 1 / 255  # a smaller difference of two places counts as none, because it could be lost in saving


def fingerprints(images: Images) -> UInt8[Tensor, "n bytes"]:
    """Compute a fingerprint of 256 bits for each picture.

    The picture is reduced to 16 x 17 grey places. A bit is set if a place is brighter than the next one in its row.
    Resizing, compression and a change of brightness hardly change the bits. A flat picture has only zeros.

    Reference:
        The difference hash of N. Krawetz, Kind of Like That, 2013.
    """
    grey = images.mean(1, keepdim=True)
    small = F.interpolate(grey, size=(SIDE, SIDE + 1), mode="area")[:, 0]
    bits = (small[:, :, :-1] - small[:, :, 1:] > FAINT).flatten(1)
    bits &= (small.flatten(1).std(1) > FLAT)[:, None]
    powers = 2 ** torch.arange(8, device=images.device)
    return (bits.reshape(len(bits), BYTES, 8) * powers).sum(2).to(torch.uint8)


def copies(images: Images) -> list[list[int]]:
    """Return groups of pictures that are copies of one another, as indices from 0; none where all pictures differ.

    Args:
        images: The pictures.
    """
    prints = fingerprints(images)
    groups: list[list[int]] = []
    for index in range(len(images)):
        one = prints[index : index + 1]
        known = [group for group in groups if len(overlap(one, prints[group]))]
        if known:
            known[0].append(index)
        else:
            groups.append([index])
    return [group for group in groups if len(group) > 1]


def overlap(some: UInt8[Tensor, "n bytes"], others: UInt8[Tensor, "m bytes"]) -> Int[Tensor, " k"]:
    """Return the indices of those of the first fingerprints that match one of the second.

    A fingerprint of zeros, which a flat picture has, matches none.
    """
    some, others = some.cpu(), others.cpu()
    others = others[(others != 0).any(1)]
    if not len(some) or not len(others):
        return torch.zeros(0, dtype=torch.long)
    signs = _signs(others)
    # A product of two bits' signs is 1 where they agree and -1 where they differ, so a sum of 256 counts exactly.
    most = [(_signs(part) @ signs.T).amax(1) for part in torch.split(some, ROWS)]
    nearest = (8 * BYTES - torch.cat(most).long()) // 2
    bits = _bits(some).sum(1)
    allowed = (torch.minimum(bits, 8 * BYTES - bits) // SHARE).clamp_max(ALIKE)
    return ((nearest <= allowed) & (bits > 0)).nonzero()[:, 0]


def _bits(prints: UInt8[Tensor, "n bytes"]) -> UInt8[Tensor, "n bits"]:
    """The bits of fingerprints, as 0 and 1."""
    return (prints[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)


def _signs(prints: UInt8[Tensor, "n bytes"]) -> Float[Tensor, "n bits"]:
    """The bits of fingerprints, as -1 and 1."""
    return _bits(prints).float() * 2 - 1
