"""Wrong gates, found by what they leave unexplained of an exact gradient.

Row o of a convolution's gradient is the sum over the places p of D_op times the patch of the input at p. If one gate is
wrong, the slope D_op there is missing or too much, and what is left of the row is D_op times that one patch. So the
gate is found by matching pursuit, also where the gradient has too few entries to read all slopes from it.

Reference:
    Mallat and Zhang, Matching Pursuits With Time-Frequency Dictionaries, 1993; gates as its dictionary: ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.attacks.separation.peeling.equations import ROUNDING, Reading
from unveil.attacks.separation.peeling.watch import Map

MOST = 8  # wrong gates of one row that are looked for
WORTH = 0.2  # share of what is left of a row, squared, that the next gate must explain
EXPLAINED = 0.1  # what may be left of a row with other gates, relative to what was left before


def flipped(reading: Reading, opened: Map, is_open: Map, is_doubtful: Bool[Tensor, "n _ _ _"], found: Map) -> Map:
    """Return the gates at the output of a convolution, with those changed that explain its gradient.

    Args:
        reading: The convolution, with the slopes that the gates give.
        opened: The slopes at its output if all gates were open, n x out x height x width.
        is_open: 1 for open gates and 0 for closed ones, of the same shape.
        is_doubtful: Whether a gate may be wrong, of the same shape.
        found: The convolution's input.
    """
    layer = reading.layer
    kernel = int(layer.weight.shape[2]), int(layer.weight.shape[3])
    patches = F.unfold(F.pad(found, layer.zeros), kernel, stride=layer.stride).transpose(0, 1).flatten(1)
    left = (reading.gradient - reading(found)).flatten(1)
    whole, first = reading.gradient.flatten(1).norm(dim=1), left.norm(dim=1)
    rows = (first > ROUNDING * whole) & is_doubtful.any(0).flatten(1).any(1)
    if not bool(rows.any()):
        return is_open
    left, before = left[rows], first[rows]
    gates, doubtful, change = (_as_rows(tensor[:, rows].to(opened)) for tensor in (is_open, is_doubtful, opened))
    again, sizes = gates.clone(), patches.square().sum(0)
    for _ in range(MOST):
        turned = (1 - 2 * again) * change
        gain = (2 * turned * (left @ patches) - turned.square() * sizes).masked_fill(doubtful == 0, -torch.inf)
        most, at = gain.max(1)
        useful = most > WORTH * left.square().sum(1)
        if not bool(useful.any()):
            break
        one, place = useful.nonzero()[:, 0], at[useful]
        left[one] -= turned[one, place, None] * patches[:, place].T
        again[one, place] = 1 - again[one, place]
    kept = (left.norm(dim=1) < EXPLAINED * before)[:, None]
    result = is_open.clone()
    n, _, *size = is_open.shape
    result[:, rows] = torch.where(kept, again, gates).reshape(-1, n, *size).transpose(0, 1)
    return result


def _as_rows(values: Map) -> Float[Tensor, "out places"]:
    """Return the channels as rows, with the places of all images in each."""
    return values.transpose(0, 1).flatten(1)
