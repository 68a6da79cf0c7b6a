"""The factors by which an obfuscation changes the lengths of whole tensors, measured on an update of dead leaves.

For example, an obfuscation that sends signs makes the entries of all tensors equally large. The lengths of two tensors
can be compared only after this is undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.batch import Batch
from unveil.core.binding import for_receiver
from unveil.core.factored import Factored, dense
from unveil.core.protocols import Knowledge
from unveil.core.types import Tensors
from unveil.core.update import Update

LEAVES = 32  # pictures of dead leaves that are drawn at most
FAINT = 1e-3  # smaller cosines between a tensor before and after the obfuscation are raised to this one


@dataclass(frozen=True, kw_only=True, eq=False)
class Levelled:
    """A received update in which the obfuscation has changed all lengths by the same factor.

    Args:
        tensors: The tensors, each divided by the factor by which the obfuscation changes its length, and multiplied by
            the factor of the head's first weight. That weight is therefore as it was received.
        clear: Cosine between each tensor before and after the obfuscation, in (0, 1]; 1 for an exact obfuscation.
    """

    tensors: Tensors
    clear: Mapping[str, float]


def level(
    model: Module,
    update: Update,
    knowledge: Knowledge,
    labels: Int[Tensor, " n"],
    *,
    reference: str,
    generator: Generator,
) -> Levelled:
    """Simulate client and obfuscation on dead leaves, and undo the obfuscation's effect on the lengths of tensors.

    Args:
        model: The public model.
        update: The received update.
        knowledge: Gives the local training and the obfuscation; an unknown obfuscation is taken to change no length.
        labels: The class index of each image.
        reference: Name of the tensor that is not changed, which is the head's first weight.
        generator: Randomness of the dead leaves and of the obfuscation.
    """
    obfuscation, received = knowledge.obfuscation, update.tensors
    if obfuscation is None:
        return Levelled(tensors=received, clear=dict.fromkeys(received, 1.0))
    drawn = dead_leaves(min(len(labels), LEAVES), knowledge.image_shape, generator=generator)
    leaves = drawn.to(received[reference].device)[torch.arange(len(labels)) % len(drawn)]
    simulated = knowledge.simulate(model, Batch(leaves, labels))
    sent = {name: dense(simulated[name]).detach() for name in received}
    own = {name for name in received if isinstance(simulated[name], Factored)}  # made here, so changed in place
    if not knowledge.scale:  # the effect of noise, for example, depends on the length: use that of the received update
        longer = received[reference].norm() / sent[reference].norm().clamp_min(torch.finfo(torch.float32).tiny)
        sent = {name: t.mul_(longer) if name in own else t * longer for name, t in sent.items()}
    arrived = for_receiver(obfuscation, update)(Update(sent), generator=generator).tensors
    factor, clear = {}, {}
    for name, before in sent.items():
        after = arrived[name]
        length, got = float(before.norm()), float(after.norm())
        product = before.mul_(after) if name in own else before * after
        cosine = float(product.sum()) / max(length * got, torch.finfo(torch.float32).tiny)
        clear[name] = min(max(cosine, FAINT), 1.0)
        factor[name] = clear[name] * got / length if length and got else 0.0
    unit = factor[reference] or 1.0
    factors = {name: unit / factor[name] if factor[name] else 1.0 for name in received}
    tensors = {name: t if factors[name] == 1 else t * factors[name] for name, t in received.items()}
    return Levelled(tensors=tensors, clear=clear)
