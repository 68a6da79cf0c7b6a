"""Find where a network can be cut in two, or why it cannot be cut."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.heads.linear_head import Head
from unveil.attacks.separation.heads.places import Places, read_places
from unveil.attacks.separation.heads.tail import Tail, named
from unveil.core.network import Draws, draws_by_chance, in_mode, run
from unveil.core.protocols import LocalTraining, loss_of
from unveil.core.tracing import Cut, Reached, Tape
from unveil.core.types import Images

__all__ = ["Head", "NoHeadError", "PooledError", "UnplacedError", "read_head"]

SAME = 1e-3  # largest relative difference between the logits of a cut network and those of the whole one


class NoHeadError(Exception):
    """The batch cannot be separated into single images behind this network; the message says why."""


class UnplacedError(NoHeadError):
    """The features of an image have no places in the picture.

    Args:
        reason: The message.
        head: The head on these numbers, each of which is taken for a map of its own.
    """

    def __init__(self, reason: str, head: Head) -> None:
        super().__init__(reason)
        self.head = head


class PooledError(UnplacedError):
    """The features of an image are those of a pooled map."""


def read_head(
    model: Module,
    image_shape: tuple[int, int, int],
    *,
    training: LocalTraining,
    draws: Draws = 0,
    sent: Collection[str] | None = None,
) -> Head:
    """Find the Linear layers at the end of a network.

    Args:
        model: The network.
        image_shape: (channels, height, width) of its pictures.
        training: The client's local training, which gives the mode of the network and the loss.
        draws: Seed of the network's random draws; None to take the mean of every draw.
        sent: Names of the parameters in the update; None for all parameters.

    Raises:
        PooledError: Their input is a pooled map.
        UnplacedError: Their input is not a flattened map.
        NoHeadError: The network does not end in Linear layers.
    """
    client = in_mode(model, training.mode)
    trained = {id(p): name for name, p in client.named_parameters() if p.requires_grad}
    like = next(iter(client.parameters()))
    generator = torch.Generator().manual_seed(0)
    kind = torch.promote_types(like.dtype, torch.float32)
    images = torch.rand((2, *image_shape), generator=generator).to(like.device, kind)
    tape = Tape({id(p): name for name, p in client.named_parameters()})
    with torch.no_grad(), tape:
        logits = run(client, images, {}, draws=None)
    chain = _chain(tape, logits, set(trained.values()), sent)
    weights = _cut(client, chain, images, logits)
    weight = named(client, weights[0])
    places, last = read_places(client, weight, images)
    features = _features(client, weight, images)
    stochastic = draws_by_chance(model, images, mode=training.mode)
    count = features.shape[1]
    head = Head(
        model=client,
        weights=weights,
        image_shape=image_shape,
        places=places or Places((count, 1, 1), torch.arange(count, device=features.device)),
        rectified=bool((features >= 0).all()) and bool((features == 0).any()),
        draws=draws if stochastic else None,
        stochastic=stochastic,
        loss=loss_of(training),
    )
    if places is None:
        reason = _why_no_places(count, last)
        raise (PooledError if _is_pooled(count, last) else UnplacedError)(reason, head)
    return head


def _chain(tape: Tape, logits: object, trained: set[str], sent: Collection[str] | None) -> list[str]:
    """Return the names of the Linear weights at the end of the network, first to last.

    The input of each layer has the shape of the output of the layer before it.

    Args:
        tape: The calls of Linear layers in a run of the network.
        logits: The output of that run; no tensor in a network that cannot be used.
        trained: Names of the parameters that are not frozen.
        sent: Names of the parameters in the update; None for all parameters.
    """
    names = [name for name, *_ in tape.linears]
    chain: list[str] = []
    shape = logits.shape if isinstance(logits, Tensor) else torch.Size([0])
    for name, inputs, output in reversed(tape.linears):
        if output.shape != shape or inputs.dim() != 2:
            reason = "The network does not end in a Linear layer on the features of whole images"
        elif name is None:
            reason = "The weight of the network's last Linear layer is computed from other parameters"
        elif name not in trained:
            reason = f"The network's last Linear layer ({name}) is frozen, so the update says nothing of it"
        elif sent is not None and name not in sent:
            reason = f"The update does not hold the network's last Linear layer ({name})"
        elif names.count(name) > 1 or name in tape.elsewhere:
            reason = f"The weight of the network's last Linear layer ({name}) is used more than once"
        else:
            chain.insert(0, name)
            shape = inputs.shape
            continue
        if not chain:
            raise NoHeadError(f"{reason}: the batch was not separated.")
        break
    if not chain:
        raise NoHeadError("The network does not end in a Linear layer, so the batch cannot be separated.")
    return chain


def _cut(client: Module, chain: list[str], images: Images, logits: Float[Tensor, "rows classes"]) -> tuple[str, ...]:
    """Return the longest end of the chain whose features alone determine the logits.

    Args:
        client: The network in the client's mode.
        chain: Names of the Linear weights at the end, first to last.
        images: Some pictures.
        logits: The network's output for them, one row for each picture in a network that can be used.
    """
    for start in range(len(chain)):
        features = _features(client, named(client, chain[start]), images)
        _, *shape = images.shape
        tail = Tail(client, chain[start], (shape[0], shape[1], shape[2]))
        with torch.no_grad():
            again = run(tail, features, {}, draws=None)
        if again.shape == logits.shape and float((again - logits).norm()) <= SAME * float(logits.norm()):
            return tuple(chain[start:])
    raise NoHeadError(
        "The network's scores depend on the picture in another way than through its last Linear layers, so that their "
        "errors do not follow from their features alone: the batch was not separated."
    )


def _features(client: Module, weight: Float[Tensor, "out features"], images: Images) -> Float[Tensor, "rows features"]:
    """Return the input of the Linear layer that has this weight, one row for each picture."""
    try:
        with torch.no_grad(), Cut(weight):
            run(client, images, {}, draws=None)
    except Reached as reached:
        return reached.features
    raise AssertionError("the weight was used before and is no longer")


def _is_pooled(count: int, last: tuple[int, int, int] | None) -> bool:
    """Return whether there are at most as many features as the last map has channels."""
    return last is not None and count <= last[0]


def _why_no_places(count: int, last: tuple[int, int, int] | None) -> str:
    """Return a sentence that says why the features have no places in the picture.

    Args:
        count: Number of features of a picture.
        last: (channels, height, width) of the last map of the network; None if it has no map.
    """
    if _is_pooled(count, last):
        return (
            "The network pools its last map before its Linear layers, so an image's features are only "
            f"{count} numbers without a place in the picture: the batch was not separated."
        )
    return (
        f"What goes into the network's last Linear layers, {count} numbers an image, is not a map whose entries have "
        "places in the picture: the batch was not separated."
    )
