"""What an obfuscation does to the lengths of whole tensors, told from what it does to the update of dead leaves.

Signs, for one, make the entries of every tensor equally large, so that lengths of two tensors cannot be compared before
this is undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.factored import dense
from unveil.core.protocols import Knowledge
from unveil.core.types import Batch, Tensors, Update

LEAVES = 32  # dead leaves that stand for a batch's pictures, at most
FAINT = 1e-3  # an obfuscation that leaves less of a tensor's own direction is not undone any further


@dataclass(frozen=True, kw_only=True, eq=False)
class Levelled:
    """An update in which the obfuscation favours no tensor over another.

    Args:
        tensors: Every tensor divided by the factor that the obfuscation has for its length, in units of the first head
            weight's factor: that one stays as it was received.
        clear: Cosine of each tensor before and after the obfuscation, in (0, 1]: 1 where the obfuscation is exact.
    """

    tensors: Tensors
    clear: Mapping[str, float]


def level(
    model: Module, update: Update, knowledge: Knowledge, labels: Tensor, *, reference: str, generator: Generator
) -> Levelled:
    """Simulate client and obfuscation on dead leaves, and undo what it does to the lengths of whole tensors.

    Args:
        model: The public model.
        update: What was received.
        knowledge: The local training and the obfuscation are taken from it; an unknown obfuscation changes nothing.
        labels: One class an image.
        reference: Name of the tensor that stays as it is.
        generator: Randomness of the leaves and of the obfuscation.
    """
    obfuscation, received = knowledge.obfuscation, update.tensors
    if obfuscation is None:
        return Levelled(tensors=received, clear=dict.fromkeys(received, 1.0))
    drawn = dead_leaves(min(len(labels), LEAVES), knowledge.image_shape, generator=generator)
    leaves = drawn.to(received[reference].device)[torch.arange(len(labels)) % len(drawn)]
    simulated = knowledge.simulate(model, Batch(leaves, labels))
    sent = {name: dense(simulated[name]).detach() for name in received}
    if not knowledge.scale:  # noise, say, has a size of its own: ask about an update of this length
        longer = received[reference].norm() / sent[reference].norm().clamp_min(torch.finfo(torch.float32).tiny)
        sent = {name: tensor * longer for name, tensor in sent.items()}
    arrived = obfuscation(Update(sent), generator=generator).tensors
    factor, clear = {}, {}
    for name, before in sent.items():
        after = arrived[name]
        own, got = float(before.norm()), float(after.norm())
        cosine = float((before * after).sum()) / max(own * got, torch.finfo(torch.float32).tiny)
        clear[name] = min(max(cosine, FAINT), 1.0)
        factor[name] = clear[name] * got / own if own and got else 0.0
    unit = factor[reference] or 1.0
    tensors = {name: t * (unit / factor[name]) if factor[name] else t for name, t in received.items()}
    return Levelled(tensors=tensors, clear=clear)
