"""The parts of a network whose sending or keeping back is tried one by one: its head, and each block before it."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.protocols import LocalTraining
from unveil.obfuscations.parameters import ALL, BIAS, HEAD, LAST, select


def layer_groups(model: Module, batch: Batch, training: LocalTraining) -> list[str]:
    """Return the groups, as `Layers` takes them: `head`, then the modules before it in the order of the network.

    A block is a module whose parameters are none of the head's, as far outside as there is one; a parameter of a module
    of which the head is a part is a block of its own. Each trained parameter is in one group.

    Args:
        model: The network.
        batch: Pictures that it takes.
        training: The client's local training.

    Raises:
        UsageError: The head of the network is not known.
    """
    head = select([HEAD], model, batch.images, training)
    return [HEAD, *_blocks(model, "", head)]


def _blocks(module: Module, prefix: str, head: frozenset[str]) -> Iterator[str]:
    """Yield the blocks of a module that holds the head, or is the whole network."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad and prefix + name not in head:
            yield prefix + name
    for name, child in module.named_children():
        trained = {f"{prefix}{name}.{own}" for own, p in child.named_parameters() if p.requires_grad}
        if trained and trained.isdisjoint(head):
            # A module that is called as one of the words of `Layers` is named by what is in it.
            yield f"{prefix}{name}.*" if prefix + name in (ALL, HEAD, LAST, BIAS) else prefix + name
        elif not trained <= head:
            yield from _blocks(child, f"{prefix}{name}.", head)
