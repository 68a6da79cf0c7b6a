"""Sending some layers of the update and keeping the others back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate
from unveil.core.protocols import EntryModel, LocalTraining, Misfit, Obfuscation
from unveil.core.records import LayerChoice
from unveil.core.registry import spec_of
from unveil.core.types import Block, Family, Tensors
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import in_own_units, squared
from unveil.obfuscations.parameters import ALL, select

NOT = "no-"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Send some of the network's parameters and keep the others back, whatever their values are.

    What is sent is sent as it is, and stages behind it in a pipeline work on that alone: a norm or a share of the whole
    update counts nothing else. It stands first in a pipeline. The server sees which parameters did not arrive, so
    every attacker knows that. Buffers that are sent are no layers, and go with the rest. Wire cost: 32 bits a value
    sent, and nothing for the others.

    Args:
        send: What is sent: `all`; `head`, the Linear layers at the end of the network, or its last convolution if it
            ends in one; `last`, the last of these layers, which gives the class scores; `bias`, every bias; or the name
            of a parameter or a module, in which `*` and `?` stand for any characters, such as `conv*`. Several are
            joined by `/`, and `no-` before them all sends everything else: `no-head`, `no-conv1/fc`.

    Reference:
        Arivazhagan et al., Federated Learning with Personalization Layers, 2019 (`no-head`); Liang et al., Think
        Locally, Act Globally: Federated Learning with Local and Global Representations, 2020 (`head`); Ben Zaken et
        al., BitFit, ACL 2022 (`bias`).
    """

    name: ClassVar[str] = "layers"
    family: ClassVar[Family] = "sparsify"
    send: str

    def __post_init__(self) -> None:
        if not all(self._words) or self.send == NOT + ALL:
            raise UsageError(
                f"Layers: expected send to be all, head, last, bias or names joined by /, with no- before them for "
                f"everything else, got {self.send!r}; no-head is one"
            )

    @property
    def _words(self) -> list[str]:
        """What is named, without `no-`."""
        return self.send.removeprefix(NOT).split("/")

    @property
    def choice(self) -> LayerChoice:
        """The choice as records keep it."""
        return LayerChoice(named=self._words, kept_back=self.send.startswith(NOT))

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Refuse: without the client's network it is not known what to send.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "Layers: what it sends depends on the client's network; get the update from `client.update(obfuscation)`, "
            "or call `for_client(model, batch, training)` first"
        )

    def for_client(self, model: Module, batch: Batch, training: LocalTraining) -> Obfuscation:
        """Return the choice for this network, which does not depend on the pictures; see `NeedsClient`.

        Raises:
            UsageError: The network has no such parameters, or nothing would be sent.
        """
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        named = select(self._words, model, batch.images, training)
        withheld = named if self.send.startswith(NOT) else trained - named
        if not trained - withheld:
            raise UsageError(f"layers: send={self.send} sends nothing of this network; send another part of it")
        return SentLayers(layers=self, withheld=frozenset(withheld))

    def for_receiver(self, received: Update) -> Obfuscation:
        """Return the choice as the receiver sees it: what did not arrive was kept back; see `NeedsClient`."""
        return SentLayers(layers=self, withheld=frozenset(received.tensors) - frozenset(self.arrived(received).tensors))

    def arrived(self, received: Update) -> Update:
        """The tensors that were sent; of a recorded update, those that are not all zeros. See `Withholding`."""
        if received.encoded is not None:
            return received.encoded
        return replace(received, tensors={name: y for name, y in received.tensors.items() if bool(y.any())})

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact; what was kept back says nothing; see `Obfuscation`."""
        return squared(received, in_own_units(received), sent_only=True)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """What was kept back counts for nothing, the rest is exact; see `HasEntryModels`."""
        arrived = self.arrived(received).tensors
        return {name: _unknown for name, y in received.tensors.items() if name not in arrived and y.dim() == 2}

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True, eq=False)
class SentLayers:
    """`Layers` for a network: an encoder whose arrays are the parameters sent.

    Args:
        layers: The obfuscation whose choice it is.
        withheld: Names of the parameters that are kept back; a tensor of any other name is sent.
    """

    layers: Layers
    withheld: frozenset[str]
    family: ClassVar[Family] = Layers.family

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Send the chosen parameters; see `Obfuscation`."""
        return self.decode(self.encode(update), update.tensors)

    def encode(self, update: Update) -> Update:
        """The parameters that are sent; see `Encoder`."""
        sent = {name: tensor for name, tensor in update.tensors.items() if name not in self.withheld}
        return replace(update, tensors=sent, support=None if update.support is None else update.masks())

    def decode(self, received: Update, like: Tensors) -> Update:
        """Zeros, none of which was sent, for the parameters that were kept back; see `Encoder`."""
        kept = {name: tensor for name, tensor in like.items() if name in self.withheld}
        masks = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in kept.items()}
        return Update(
            {name: torch.zeros_like(kept[name]) if name in kept else received.tensors[name] for name in like},
            coding=replace(received.coding, sparse=True),
            support={**received.masks(), **masks},
            side=received.side,
            encoded=received,
        )

    def encoded(self, candidate: Candidate) -> Candidate:
        """What a candidate has of the parameters that are sent; see `Encoder`."""
        return {name: value for name, value in candidate.items() if name not in self.withheld}

    def arrived(self, received: Update) -> Update:
        """See `Layers.arrived`."""
        return self.layers.arrived(received)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """See `Layers.misfit`."""
        return self.layers.misfit(received, sent_only=sent_only)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """See `Layers.entry_models`."""
        return self.layers.entry_models(received)

    def __str__(self) -> str:
        return str(self.layers)


def _unknown(
    expected: Float[Tensor, "some few"], block: Block
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    return expected, torch.zeros_like(expected)
