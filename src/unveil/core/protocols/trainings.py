"""What a client computes from its batch, and what a local training may do besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.loss import MEAN, Loss
from unveil.core.network import Draws
from unveil.core.types import Tensors


@runtime_checkable
class LocalTraining(Protocol):
    """What a client computes from its batch before it sends anything; it does not change the model."""

    @property
    def mode(self) -> Literal["eval", "train"]:
        """The mode in which the client runs the model."""
        ...

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Compute the tensors that the client sends.

        Args:
            model: The model before local training.
            batch: The client's batch.
            generator: Source of the client's noise and the network's random draws; it draws on the processor. None if
                there is no noise.
        """
        ...

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Compute the tensors without noise, differentiable with respect to the batch; attackers call this.

        Args:
            model: The public model.
            batch: The attacker's guess of the batch.
            draws: Seed of the network's random draws, such as dropout masks; None to take the mean of every draw.
        """
        ...


@runtime_checkable
class HasOrder(Protocol):
    """A local training whose mini-batches have an order, which a threat model may withhold."""

    def reordered(self, pictures: int) -> LocalTraining | None:
        """Return a copy with other mini-batches than the client's; None if each step has all of `pictures` pictures."""
        ...


@runtime_checkable
class MayBeShortened(Protocol):
    """A local training of many steps, of which a rehearsal needs only the first."""

    def shortened(self, pictures: int) -> LocalTraining:
        """Return a copy that trains for one epoch of `pictures` pictures at most."""
        ...


@runtime_checkable
class MayAddNoise(Protocol):
    """A local training that may add noise of its own, as DP-SGD does: its baseline is the same without noise."""

    def without_noise(self) -> LocalTraining | None:
        """Return a copy that neither clips nor adds noise; None if this one adds no noise."""
        ...


@runtime_checkable
class NamesLoss(Protocol):
    """A local training that says which loss it differentiates; without it the loss is the plain cross-entropy."""

    @property
    def local_loss(self) -> Loss:
        """The loss of each local step."""
        ...


def loss_of(training: LocalTraining) -> Loss:
    """Return the loss that a local training differentiates; the mean cross-entropy if it does not say."""
    return training.local_loss if isinstance(training, NamesLoss) else MEAN


BufferSetting = Literal["kept", "sent", "obfuscated"]
"""Whether a client keeps the network's buffers, sends them as they are, or lets them be obfuscated like the update."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a client has after local training.

    Args:
        tensors: What it sends of the parameters; see `LocalTraining`.
        buffers: Value after minus value before of each buffer of the network's `state_dict` that changed.
    """

    tensors: Tensors
    buffers: Mapping[str, Shaped[Tensor, " ..."]]


@runtime_checkable
class SendsBuffers(Protocol):
    """A local training that may also send what it did to the network's buffers, such as BatchNorm's statistics."""

    @property
    def buffers(self) -> BufferSetting:
        """Whether it sends them."""
        ...

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Compute what a call does, and the changes of the buffers."""
        ...
