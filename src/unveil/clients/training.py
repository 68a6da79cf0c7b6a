"""Local training, which a client does before it sends an update: FedSGD's one gradient, or FedAvg's local steps.

Both are a differentiable operator from a batch to named tensors. The attacker calls `simulate` of the same object that
the client called, with the weights before local training. So no attack has a branch for FedSGD or FedAvg.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Int, Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.clients.local_optimisers import SGD, Slope
from unveil.clients.local_steps import LocalSteps, OwnLoss, draws_of
from unveil.clients.private_steps import check_privacy, noised
from unveil.core.batch import Batch
from unveil.core.bounds import whole
from unveil.core.clipping import ExampleClipping
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, Factored, dense
from unveil.core.gradient import Gradient
from unveil.core.loss import LossName, Reduction
from unveil.core.network import Draws, Mode, in_mode
from unveil.core.protocols import BufferSetting, LocalTraining, MayBeShortened, Trained
from unveil.core.registry import build, spec_of
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class FedSGD(OwnLoss):
    """Send the gradient of the loss on the whole batch.

    Args:
        mode: The client's mode: `eval`, or `train`, in which BatchNorm uses the batch's own statistics.
        clip: DP-SGD: each example's gradient is clipped to this L2 norm before the mean; None for no clipping.
        noise: DP-SGD: noise multiplier; the mean gets Gaussian noise of standard deviation noise * clip / n.
        expected: DP-SGD: what the sum of the clipped gradients is divided by instead of their number n, which is the
            expected batch size where the batch was drawn by Poisson sampling, as Opacus does; None for n.
        loss: `cross_entropy`, `bce` (a sigmoid for each class) or `mse` (of the scores); see `Loss`.
        reduction: Whether the loss is the `mean` or the `sum` over the pictures.
        label_smoothing: Share of each label that the loss spreads evenly over all classes, in [0, 1).
        buffers: What becomes of the buffers that training changes, such as BatchNorm's running statistics: `kept` by
            the client, `sent` as they are, as a `state_dict` is, or `obfuscated` like the gradient.

    Raises:
        UsageError: A setting is out of its range.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017;
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016 (clip and noise).
    """

    name: ClassVar[str] = "fedsgd"
    mode: Mode = "eval"
    clip: float | None = None
    noise: float = 0.0
    expected: float | None = None
    loss: LossName = "cross_entropy"
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    buffers: BufferSetting = "kept"

    def __post_init__(self) -> None:
        _ = self.local_loss
        check_privacy("FedSGD", self.clip, self.noise, self.expected, self.reduction)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the gradient that the client sends; see `LocalTraining`."""
        return self._sent(self._client(model, draws_of(generator), differentiable=False), batch, generator)

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Return the gradient and the changes of the buffers; see `SendsBuffers`."""
        client = self._client(model, draws_of(generator), differentiable=False)
        return Trained(tensors=self._sent(client, batch, generator), buffers=_changes(client, self.buffers))

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the gradient without noise, differentiable in the batch; large Linear weights are factored."""
        return self._client(model, draws, differentiable=_is_searched(batch)).gradient({}, batch)

    def clipping(self, pictures: int) -> ExampleClipping | None:
        """Return what bounds an example: the sum of clipped gradients is sent; see `ClipsExamples`."""
        if self.clip is None:
            return None
        return ExampleClipping(
            norm=self.clip,
            multiplier=self.noise,
            divisor=1.0 if self.reduction == "sum" else self.expected or pictures,
            is_fixed=self.expected is not None or self.reduction == "sum",
            releases=1,
            mini_batches=False,
            is_sent=True,
        )

    def without_noise(self) -> FedSGD | None:
        """Return a copy that neither clips nor adds noise; None if this one adds none; see `MayAddNoise`."""
        return replace(self, clip=None, noise=0.0, expected=None) if self.noise else None

    __str__ = spec_of

    def _sent(self, client: LocalSteps, batch: Batch, generator: Generator | None) -> Tensors:
        sent = _detached(client.gradient({}, batch))
        return noised(sent, self.noise * (self.clip or 0.0) / client.divisor(len(batch)), generator)

    def _client(self, model: Module, draws: Draws, *, differentiable: bool) -> LocalSteps:
        return LocalSteps(
            in_mode(model, self.mode),
            self.clip,
            draws=draws,
            differentiable=differentiable,
            loss=self.local_loss,
            expected=self.expected,
        )


@dataclass(frozen=True, kw_only=True)
class FedAvg(OwnLoss):
    """Train locally with SGD and send the received weights minus the local ones.

    Args:
        steps: Number of local steps; give either steps or epochs.
        epochs: Number of passes over the client's pictures.
        lr: Local learning rate, greater than 0.
        batch_size: Pictures in each step; None for all of them.
        drop_last: Leave a last, smaller mini-batch of each epoch out, as a DataLoader may; it needs a batch_size.
        momentum: Heavy-ball momentum in [0, 1).
        dampening: Share of each gradient, but the first, that does not enter the momentum; in [0, 1].
        nesterov: Nesterov's momentum; it needs momentum, and no dampening.
        weight_decay: L2 penalty added to each gradient, 0 or more.
        shuffle: Seed of the order of the pictures, which is drawn anew in each epoch; None keeps their order.
        mode: The client's mode: `eval`, or `train`, in which BatchNorm uses each mini-batch's own statistics.
        clip: DP-SGD's per-example clipping norm in every step; None for no clipping.
        noise: DP-SGD's noise multiplier in every step.
        expected: What DP-SGD divides each step's sum by instead of its number of pictures; see `FedSGD`.
        loss: `cross_entropy`, `bce` (a sigmoid for each class) or `mse` (of the scores); see `Loss`.
        reduction: Whether the loss of a step is the `mean` or the `sum` over its pictures.
        label_smoothing: Share of each label that the loss spreads evenly over all classes, in [0, 1).
        buffers: What becomes of the buffers that training changes, such as BatchNorm's running statistics: `kept` by
            the client, `sent` as they are, as a `state_dict` is, or `obfuscated` like the weight difference.

    Raises:
        UsageError: A setting is out of its range, or both or neither of steps and epochs are given.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
    """

    name: ClassVar[str] = "fedavg"
    steps: int | None = None
    epochs: int | None = None
    lr: float
    batch_size: int | None = None
    drop_last: bool = False
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    shuffle: int | None = None
    mode: Mode = "eval"
    clip: float | None = None
    noise: float = 0.0
    expected: float | None = None
    loss: LossName = "cross_entropy"
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    buffers: BufferSetting = "kept"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UsageError("FedAvg: expected either steps or epochs; give exactly one of them")
        for field in ("steps", "epochs", "batch_size"):
            value = getattr(self, field)
            if value is not None:
                whole("FedAvg", field, value, 1, 1_000_000, "use 1 for the least")
        if self.shuffle is not None:
            whole("FedAvg", "shuffle", self.shuffle, 0, (1 << 63) - 1, "it is a seed; leave it out to keep the order")
        if self.drop_last and self.batch_size is None:
            raise UsageError("FedAvg: drop_last has no effect where each step has all pictures; give a batch_size")
        _ = self._optimiser
        _ = self.local_loss
        check_privacy("FedAvg", self.clip, self.noise, self.expected, self.reduction)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the weight difference that the client sends; see `LocalTraining`."""
        client = self._client(model, draws_of(generator), differentiable=False)
        return _detached(self._run(client, batch, generator=generator))

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Return the weight difference and the changes of the buffers; see `SendsBuffers`."""
        client = self._client(model, draws_of(generator), differentiable=False)
        sent = _detached(self._run(client, batch, generator=generator))
        return Trained(tensors=sent, buffers=_changes(client, self.buffers))

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the difference without noise, differentiable through every step; large Linear weights are factored."""
        client = self._client(model, draws, differentiable=_is_searched(batch))
        return self._run(client, batch, generator=None)

    def without_noise(self) -> FedAvg | None:
        """Return a copy that neither clips nor adds noise; None if this one adds none; see `MayAddNoise`."""
        return replace(self, clip=None, noise=0.0, expected=None) if self.noise else None

    __str__ = spec_of

    @property
    def _optimiser(self) -> SGD:
        return SGD(
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )

    def _client(self, model: Module, draws: Draws, *, differentiable: bool) -> LocalSteps:
        return LocalSteps(
            in_mode(model, self.mode),
            self.clip,
            draws=draws,
            differentiable=differentiable,
            may_be_thin=self._optimiser.is_thin,
            loss=self.local_loss,
            expected=self.expected,
        )

    def _run(self, client: LocalSteps, batch: Batch, *, generator: Generator | None) -> Candidate:
        parameters, optimiser = dict(client.model.named_parameters()), self._optimiser
        delta: Gradient = {}
        velocity: dict[str, Slope] = {}
        for number, rows in enumerate(self._order(len(batch))):
            part = Batch(batch.images[rows], batch.labels[rows])
            step: Candidate = client.gradient(delta, part, step=number)
            if generator is not None and self.noise and self.clip:
                step = noised(_detached(step), self.noise * self.clip / client.divisor(len(part)), generator)
            for name, slope in step.items():
                delta[name], velocity[name] = optimiser.step(
                    parameters[name], delta.get(name), slope, velocity.get(name)
                )
        return {n: d if isinstance(d, Factored) else d.to(parameters[n].dtype) for n, d in delta.items()}

    def clipping(self, pictures: int) -> ExampleClipping | None:
        """Return what bounds an example, which is in one step of each epoch; see `ClipsExamples`."""
        if self.clip is None:
            return None
        return ExampleClipping(
            norm=self.clip,
            multiplier=self.noise,
            divisor=1.0 if self.reduction == "sum" else self.expected or min(self.batch_size or pictures, pictures),
            is_fixed=self.expected is not None or self.reduction == "sum",
            releases=self.epochs or -(-(self.steps or 0) // self._per_epoch(pictures)),
            mini_batches=self.batch_size is not None,
            is_sent=False,
        )

    def reordered(self, pictures: int) -> FedAvg | None:
        """Return a copy with another order of the pictures; None if each step has all of them; see `HasOrder`."""
        if self.batch_size is None or self.batch_size >= pictures:
            return None
        return replace(self, shuffle=0 if self.shuffle is None else None)

    def shortened(self, pictures: int) -> FedAvg:
        """Return a copy that trains for one epoch at most; see `MayBeShortened`."""
        epoch = self._per_epoch(pictures)
        total = self.steps if self.steps is not None else (self.epochs or 0) * epoch
        return replace(self, steps=min(total, epoch), epochs=None)

    def _per_epoch(self, n: int) -> int:
        """Return the number of steps of one epoch on n pictures.

        Raises:
            UsageError: There is none, because the only mini-batch is smaller than `batch_size` and left out.
        """
        size = self.batch_size or n
        if not self.drop_last:
            return -(-n // min(size, n))
        if size > n:
            raise UsageError(
                f"FedAvg: with drop_last {n} pictures give no mini-batch of {size}; leave drop_last out, or give a "
                "smaller batch_size"
            )
        return n // size

    def _order(self, n: int) -> Iterator[Int[Tensor, " _"]]:
        """Yield the indices of each mini-batch's pictures, for all steps or epochs."""
        size, per_epoch = min(self.batch_size or n, n), self._per_epoch(n)
        total = self.steps if self.steps is not None else (self.epochs or 0) * per_epoch
        rng = None if self.shuffle is None else Generator().manual_seed(self.shuffle)

        def endless() -> Iterator[Int[Tensor, " _"]]:
            while True:
                rows = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
                yield from torch.split(rows, size)[:per_epoch]

        return itertools.islice(endless(), total)


CATALOGUE: Mapping[str, type] = {cls.name: cls for cls in (FedSGD, FedAvg)}


def parse(text: str) -> LocalTraining:
    """Build a local training from its SPEC, such as `fedavg:steps=5,lr=0.003`.

    Raises:
        UsageError: The name or a setting is unknown, or a value does not fit.
    """
    training: LocalTraining = build("training", CATALOGUE, text)
    return training


def shortened(training: LocalTraining, pictures: int) -> LocalTraining:
    """Return the same local training for at most one epoch on `pictures` pictures, which is enough to try it."""
    return training.shortened(pictures) if isinstance(training, MayBeShortened) else training


def _is_searched(batch: Batch) -> bool:
    """Return whether the caller may differentiate in the batch; keeping the graph for that doubles the cost."""
    return torch.is_grad_enabled() and (batch.images.requires_grad or batch.labels.requires_grad)


def _changes(client: LocalSteps, setting: BufferSetting) -> Mapping[str, Shaped[Tensor, " ..."]]:
    """Return the changes of the buffers; raise a `UsageError` if they are to be sent and there are none."""
    found = client.buffer_changes()
    if setting != "kept" and not found:
        raise UsageError(
            f"training: buffers={setting} has no effect, because local training changes no buffer of this network; "
            "leave buffers out, or use mode=train with a network that has BatchNorm"
        )
    return found


def _detached(candidate: Candidate) -> Tensors:
    """Return plain tensors, detached from the autograd graph."""
    return {name: dense(value).detach() for name, value in candidate.items()}
