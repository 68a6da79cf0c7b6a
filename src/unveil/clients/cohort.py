"""The local training of several clients of whose updates the server sees only the mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Generator
from torch.nn import Module

from unveil.clients.training import FedSGD, shortened
from unveil.core.batch import Batch
from unveil.core.clipping import ClipsExamples
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, added, dense, scaled
from unveil.core.loss import Loss
from unveil.core.network import Draws, Mode
from unveil.core.protocols import HasOrder, LocalTraining, SendsBuffers, loss_of
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class CohortTraining:
    """Each client trains on its part of the pictures, and the mean of their updates is sent.

    The mean is weighted by the clients' numbers of pictures, as FedAvg weights them. The pictures of one client follow
    those of another: n pictures are cut into equal parts, of which the first have one more where they do not divide.

    Args:
        training: The local training of each client.
        clients: Number of clients, 2 or more.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017;
        Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017 (the server sees
        no more).
    """

    training: LocalTraining
    clients: int

    @property
    def mode(self) -> Mode:
        """The mode in which every client runs the model."""
        return self.training.mode

    @property
    def local_loss(self) -> Loss:
        """The loss of every client; see `NamesLoss`."""
        return loss_of(self.training)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Compute the mean of the clients' updates; see `LocalTraining`."""
        found: list[Candidate] = [
            scaled(self.training(model, part, generator=generator), len(part) / len(batch))
            for part in self.parts(batch)
        ]
        return {name: dense(value) for name, value in added(found).items()}

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Compute the mean of the clients' updates, each simulated by itself; see `LocalTraining`."""
        return added(
            [
                scaled(self.training.simulate(model, part, draws=draws), len(part) / len(batch))
                for part in self.parts(batch)
            ]
        )

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Return the pictures of each client; see `parts_of`."""
        return parts_of(batch, self.clients)

    def reordered(self, pictures: int) -> CohortTraining | None:
        """Return a copy in which clients take their pictures in another order; see `HasOrder`."""
        other = self.training.reordered(self._most(pictures)) if isinstance(self.training, HasOrder) else None
        return None if other is None else replace(self, training=other)

    def shortened(self, pictures: int) -> CohortTraining:
        """Return a copy in which clients train for one epoch at most; see `MayBeShortened`."""
        return replace(self, training=shortened(self.training, self._most(pictures)))

    def _most(self, pictures: int) -> int:
        """Return how many of all pictures the first client has."""
        return -(-pictures // self.clients)

    def __str__(self) -> str:
        """The SPEC of each client's local training; results keep the number of clients beside it."""
        return str(self.training)


def parts_of(batch: Batch, clients: int) -> Iterator[Batch]:
    """Yield the pictures of each client of a cohort, with their labels; a client without pictures is left out.

    Args:
        batch: The pictures of all clients, one client's after the other's.
        clients: Number of clients.
    """
    images, labels = batch.images.tensor_split(clients), batch.labels.tensor_split(clients)
    yield from (Batch(*part) for part in zip(images, labels, strict=True) if len(part[0]))


def of_cohort(training: LocalTraining, clients: int) -> LocalTraining:
    """Return the local training of several clients together, as one update for all of their pictures.

    The mean of gradients, weighted by the numbers of pictures, is the gradient of all pictures; so it is one of FedSGD.

    Args:
        training: The local training of each client.
        clients: Number of clients, 1 or more.

    Raises:
        UsageError: The clients clip and add noise, or send buffers, whose mean is not computed here.
    """
    if clients == 1:
        return training
    if isinstance(training, ClipsExamples) and training.clipping(1) is not None:
        raise UsageError(
            f"cohort: {training} clips each picture's gradient, and no guarantee is stated of a mean of such updates; "
            "leave cohort out, or clip and noise out of training"
        )
    if isinstance(training, SendsBuffers) and training.buffers != "kept":
        raise UsageError(
            f"cohort: {training} sends buffers, which a mean over clients does not have here; leave buffers out"
        )
    if isinstance(training, FedSGD) and training.mode == "eval" and training.reduction == "mean":
        return training
    return CohortTraining(training=training, clients=clients)
