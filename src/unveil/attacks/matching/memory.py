"""About how much memory an attack needs that matches updates."""

from __future__ import annotations

from math import prod

from torch.nn import Module

from unveil.core.obfuscation_memory import update_bytes
from unveil.core.protocols import Knowledge

COPIES = 14  # copies of the pictures in a search
PASSES = 3  # activations of the batch, their slopes, and what the second derivative needs, in units of the activations
UPDATES = 3  # the gradient of the present pictures, its slope and a temporary, in units of the update


def matching_bytes(model: Module, knowledge: Knowledge, *, activations: int) -> int:
    """Return the bytes that an attack has that differentiates through the gradient; see `EstimatesMemory`.

    Args:
        model: The public model.
        knowledge: What the attacker knows.
        activations: Bytes that autograd keeps for one pass of the whole batch through the model.
    """
    pictures = 4 * knowledge.num_images * prod(knowledge.image_shape)
    return UPDATES * update_bytes(model) + PASSES * activations + COPIES * pictures
