"""Soteria: prune the gradient of a Linear layer where its input, the representation, says most about the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.bounds import share
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.protocols import EntryModel, LocalTraining, Misfit, Obfuscation
from unveil.core.registry import spec_of
from unveil.core.tracing import Cut, Reached, Tape
from unveil.core.types import Block, Family, Images
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import in_own_units, squared
from unveil.obfuscations.numerics import share_of
from unveil.obfuscations.wire import chosen


@dataclass(frozen=True, kw_only=True)
class Soteria:
    """Do not send the columns of one Linear weight that belong to the most telling entries of the layer's input.

    The layer's input is the representation r. Of its n entries the ceil(pruning_rate n) with the largest
    ``||r_i|| / ||d r_i / d x||`` are pruned: to first order, setting one of them to zero moves the picture x
    farthest. For a batch the ratios of the pictures are added. A ratio is 0 where r_i is 0, because pruning does not
    change such an entry.

    The authors' code adds the inverse ratios instead, with 0.1 added to r, which behind ReLU prunes the entries first
    that are zero anyway. For one picture without zeros the choice is the same. The entries are chosen once for the
    whole batch, with the weights before local training. After one local step this is the paper's defence; after several
    steps the same columns are taken from their sum, where the paper chooses anew in each step.

    Choosing takes one backward pass for each entry of the representation. The network's random draws are replaced by
    their means. Wire cost: the entries sent in full, and the positions of the pruned ones.

    Args:
        pruning_rate: Share of the representation's entries that are pruned, in (0, 1].
        layer: Name of the defended layer in the network; empty for the last Linear layer that runs.

    Reference:
        Sun et al., Soteria: Provable Defense Against Privacy Leakage in Federated Learning From Representation
        Perspective, CVPR 2021.
    """

    name: ClassVar[str] = "soteria"
    family: ClassVar[Family] = "sparsify"
    pruning_rate: float
    layer: str = ""

    def __post_init__(self) -> None:
        share("Soteria", "pruning_rate", self.pruning_rate, "0.8 prunes 80 % of the representation")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Refuse: without the client it is not known what to prune.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "Soteria: what it prunes depends on the client's model and batch; get the update from "
            "`client.update(obfuscation)`, or call `for_client(model, batch, training)` first"
        )

    def for_client(self, model: Module, batch: Batch, training: LocalTraining) -> Obfuscation:
        """Return the pruning of this client's columns; see `NeedsClient`.

        Raises:
            UsageError: The model has no such layer, the layer is frozen, or its input is not one row for each picture.
        """
        client = in_mode(model, training.mode)
        name = _defended(client, self.layer, batch.images)
        telling = ratios(client, name, batch.images).sum(0)
        pruned = telling.topk(share_of(self.pruning_rate, len(telling))).indices
        kept = torch.ones_like(telling, dtype=torch.bool).index_fill_(0, pruned, False)
        return PrunedColumns(soteria=self, kept={name: kept})

    def for_receiver(self, received: Update) -> Obfuscation:
        """Return the pruning of the columns of which nothing was received; see `NeedsClient`."""
        columns = {name: mask.any(0) for name, mask in received.masks().items() if mask.dim() == 2}
        return PrunedColumns(soteria=self, kept={n: kept for n, kept in columns.items() if not bool(kept.all())})

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact; the pruned columns say nothing; see `Obfuscation`."""
        return squared(received, in_own_units(received), sent_only=True)

    def unsent(self, received: Update) -> Misfit:
        """Nothing: which columns were pruned depends on the pictures in a way that is not used; see `Sparsifier`."""
        return _nothing

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """What was sent is exact, the pruned columns count for nothing; see `HasEntryModels`."""
        return {
            name: partial(_believed, y, received.sent(name)) for name, y in received.tensors.items() if y.dim() == 2
        }

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedColumns:
    """Soteria with its choice made: some columns of a Linear weight are not sent.

    Args:
        soteria: The obfuscation whose choice it is.
        kept: Name of a weight -> which of its columns are sent.
    """

    soteria: Soteria
    kept: Mapping[str, Bool[Tensor, " columns"]]
    family: ClassVar[Family] = Soteria.family

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Prune; an update that does not hold the weight is left alone, see `Obfuscation`."""
        masks = update.masks()
        for name, kept in self.kept.items():
            if name in update.tensors:
                whole = kept.expand(update.tensors[name].shape)
                masks[name] = masks[name] & whole if name in masks else whole
        return chosen(update, masks)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """See `Soteria.misfit`."""
        return self.soteria.misfit(received, sent_only=sent_only)

    def unsent(self, received: Update) -> Misfit:
        """See `Soteria.unsent`."""
        return self.soteria.unsent(received)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """See `Soteria.entry_models`."""
        return self.soteria.entry_models(received)

    def __str__(self) -> str:
        return str(self.soteria)


def ratios(client: Module, name: str, images: Images) -> Float[Tensor, "n entries"]:
    """Return ``||r_i|| / ||d r_i / d x||`` of each picture and each entry of the representation; 0 where r_i is 0.

    Args:
        client: The network in the client's mode.
        name: Name of the defended layer's weight.
        images: The pictures.

    Raises:
        UsageError: The layer's input is not one row for each picture.
    """
    weights = {own: parameter.detach() for own, parameter in client.named_parameters()}
    images = images.detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), Cut(weights[name]):
            run(client, images, weights, draws=None)
    except Reached as reached:
        features = reached.features
    if features.dim() != 2 or len(features) != len(images):
        raise UsageError(
            f"Soteria: {name} is not run on one row of features for each picture but on {tuple(features.shape)}; "
            "name a layer that is with layer="
        )
    slopes = torch.empty_like(features)
    for i in range(features.shape[1]):
        (slope,) = torch.autograd.grad(features[:, i].sum(), images, retain_graph=True)
        slopes[:, i] = slope.flatten(1).norm(dim=1)
    features = features.detach().abs()
    return torch.where(features > 0, features / slopes, 0.0)


def _defended(client: Module, layer: str, images: Images) -> str:
    """Return the name of the defended layer's weight."""
    tape = Tape({id(parameter): name for name, parameter in client.named_parameters()})
    with torch.no_grad(), tape:
        run(client, images, {}, draws=None)
    found = [name for name, *_ in tape.linears if name is not None]
    if not found:
        raise UsageError("Soteria: the network runs no Linear layer; it defends the input of one, take such a network")
    if layer and f"{layer}.weight" not in found:
        known = ", ".join(dict.fromkeys(name.removesuffix(".weight") for name in found))
        raise UsageError(f"Soteria: the network runs no Linear layer {layer!r}; layer can be one of {known}")
    name = f"{layer}.weight" if layer else found[-1]
    if not client.get_parameter(name).requires_grad:
        raise UsageError(f"Soteria: {name} is frozen, so nothing of it is sent; train it, or name another layer")
    return name


def _believed(
    received: Float[Tensor, "rows columns"],
    sent: Bool[Tensor, "rows columns"] | None,
    expected: Float[Tensor, "some few"],
    block: Block,
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    y = received[block]
    return y, torch.ones_like(y) if sent is None else sent[block].to(y.dtype)


def _nothing(candidate: object) -> Float[Tensor, ""]:
    return torch.zeros(())
