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
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor
from torch.nn import Module

from unveil.clients.local_steps import LocalSteps, added, draws_of
from unveil.core.batch import Batch
from unveil.core.bounds import not_negative, positive, whole
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, Factored, dense
from unveil.core.gradient import Gradient
from unveil.core.network import Draws, Mode, in_mode
from unveil.core.protocols import BufferSetting, LocalTraining, MayBeShortened, Trained
from unveil.core.registry import build, spec_of
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class FedSGD:
    """Send the gradient of the mean cross-entropy on the whole batch.

    Args:
        mode: The client's mode: `eval`, or `train`, in which BatchNorm uses the batch's own statistics.
        clip: DP-SGD: each example's gradient is clipped to this L2 norm before the mean; None for no clipping.
        noise: DP-SGD: noise multiplier; the mean gets Gaussian noise of standard deviation noise * clip / n.
        expected: DP-SGD: what the sum of the clipped gradients is divided by instead of their number n, which is the
            expected batch size where the batch was drawn by Poisson sampling, as Opacus does; None for n.
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
    buffers: BufferSetting = "kept"

    def __post_init__(self) -> None:
        _check_privacy("FedSGD", self.clip, self.noise, self.expected)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the gradient that the client sends; see `LocalTraining`."""
        return self.trained(model, batch, generator=generator).tensors

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Return the gradient and the changes of the buffers; see `SendsBuffers`."""
        client = LocalSteps(in_mode(model, self.mode), self.clip, expected=self.expected, draws=draws_of(generator))
        sent = _detached(client.gradient({}, batch))
        sent = _noised(sent, self.noise * (self.clip or 0.0) / (self.expected or len(batch)), generator)
        return Trained(tensors=sent, buffers=_changes(client, self.buffers))

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the gradient without noise, differentiable in the batch; large Linear weights are factored."""
        client = LocalSteps(
            in_mode(model, self.mode),
            self.clip,
            expected=self.expected,
            draws=draws,
            differentiable=_is_searched(batch),
        )
        return client.gradient({}, batch)

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Train locally with SGD and send the received weights minus the local ones.

    Args:
        steps: Number of local steps; give either steps or epochs.
        epochs: Number of passes over the client's pictures.
        lr: Local learning rate, greater than 0.
        batch_size: Pictures in each step; None for all of them. A last, smaller mini-batch is used too.
        momentum: Heavy-ball momentum in [0, 1).
        weight_decay: L2 penalty added to each gradient, 0 or more.
        shuffle: Seed of the order of the pictures, which is drawn anew in each epoch; None keeps their order.
        mode: The client's mode: `eval`, or `train`, in which BatchNorm uses each mini-batch's own statistics.
        clip: DP-SGD's per-example clipping norm in every step; None for no clipping.
        noise: DP-SGD's noise multiplier in every step.
        expected: What DP-SGD divides each step's sum by instead of its number of pictures; see `FedSGD`.
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
    momentum: float = 0.0
    weight_decay: float = 0.0
    shuffle: int | None = None
    mode: Mode = "eval"
    clip: float | None = None
    noise: float = 0.0
    expected: float | None = None
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
        positive("FedAvg", "lr", self.lr, "with 0 the client would send zeros")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"FedAvg: expected 0 <= momentum < 1, got {self.momentum}; 0 switches it off")
        not_negative("FedAvg", "weight_decay", self.weight_decay, "0 switches it off")
        _check_privacy("FedAvg", self.clip, self.noise, self.expected)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the weight difference that the client sends; see `LocalTraining`."""
        return self.trained(model, batch, generator=generator).tensors

    def trained(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Trained:
        """Return the weight difference and the changes of the buffers; see `SendsBuffers`."""
        client = self._client(model, draws_of(generator), differentiable=False)
        sent = _detached(self._run(client, batch, generator=generator))
        return Trained(tensors=sent, buffers=_changes(client, self.buffers))

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the difference without noise, differentiable through every step; large Linear weights are factored."""
        client = self._client(model, draws, differentiable=_is_searched(batch))
        return self._run(client, batch, generator=None)

    __str__ = spec_of

    def _client(self, model: Module, draws: Draws, *, differentiable: bool) -> LocalSteps:
        # Weight decay adds the weights themselves, which have no thin factors.
        return LocalSteps(
            in_mode(model, self.mode),
            self.clip,
            expected=self.expected,
            draws=draws,
            differentiable=differentiable,
            may_be_thin=not self.weight_decay,
        )

    def _run(self, client: LocalSteps, batch: Batch, *, generator: Generator | None) -> Candidate:
        parameters = dict(client.model.named_parameters())
        delta: Gradient = {}
        velocity: Gradient = {}
        for number, rows in enumerate(self._order(len(batch))):
            part = Batch(batch.images[rows], batch.labels[rows])
            step: Candidate = client.gradient(delta, part, step=number)
            if generator is not None and self.noise and self.clip:
                step = _noised(_detached(step), self.noise * self.clip / (self.expected or len(part)), generator)
            for name, slope in step.items():
                if self.weight_decay:
                    now = _now(parameters[name], delta.get(name))
                    slope = torch.add(dense(slope), now, alpha=self.weight_decay)
                velocity[name] = slope if name not in velocity else added(velocity[name] * self.momentum, slope)
                delta[name] = _moved(parameters[name], delta.get(name), velocity[name], self.lr)
        return {n: d if isinstance(d, Factored) else d.to(parameters[n].dtype) for n, d in delta.items()}

    def reordered(self, pictures: int) -> FedAvg | None:
        """Return a copy with another order of the pictures; None if each step has all of them; see `HasOrder`."""
        if self.batch_size is None or self.batch_size >= pictures:
            return None
        return replace(self, shuffle=0 if self.shuffle is None else None)

    def shortened(self, pictures: int) -> FedAvg:
        """Return a copy that trains for one epoch at most; see `MayBeShortened`."""
        epoch = -(-pictures // min(self.batch_size or pictures, pictures))
        total = self.steps if self.steps is not None else (self.epochs or 0) * epoch
        return replace(self, steps=min(total, epoch), epochs=None)

    def _order(self, n: int) -> Iterator[Int[Tensor, " _"]]:
        """Yield the indices of each mini-batch's pictures, for all steps or epochs."""
        size = min(self.batch_size or n, n)
        per_epoch = -(-n // size)
        total = self.steps if self.steps is not None else (self.epochs or 0) * per_epoch
        rng = None if self.shuffle is None else Generator().manual_seed(self.shuffle)

        def endless() -> Iterator[Int[Tensor, " _"]]:
            while True:
                rows = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
                yield from torch.split(rows, size)

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


def _moved(
    weight: Float[Tensor, "*shape"],
    delta: Float[Tensor, "*shape"] | Factored | None,
    velocity: Float[Tensor, "*shape"] | Factored,
    lr: float,
) -> Float[Tensor, "*shape"] | Factored:
    """Return how far a weight has moved after one more step; in float32 for weights of half precision.

    Args:
        weight: The weight before local training.
        delta: How far it has moved before this step; None in the first step.
        velocity: The gradient with momentum.
        lr: The learning rate.
    """
    if weight.dtype in (torch.float16, torch.bfloat16):  # the client's weights are rounded after each step
        return weight.detach().float() - torch.add(_now(weight, delta), dense(velocity), alpha=-lr).float()
    change = velocity * lr
    return change if delta is None else added(delta, change)


def _now(weight: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"] | Factored | None) -> Float[Tensor, "*shape"]:
    """Return the client's present weight, ``weight - delta``, rounded to the weight's type."""
    start = weight.detach()
    return start if delta is None else (start - dense(delta)).to(start.dtype)


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


def _noised(tensors: Tensors, sigma: float, generator: Generator | None) -> Tensors:
    """Add Gaussian noise of standard deviation `sigma` to every entry.

    Raises:
        UsageError: There is noise to add, and no generator.
    """
    if not sigma:
        return tensors
    if generator is None:
        raise UsageError("training: noise needs a generator; pass generator=torch.Generator().manual_seed(0)")
    return {
        name: t + sigma * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)
        for name, t in tensors.items()
    }


def _check_privacy(who: str, clip: float | None, noise: float, expected: float | None) -> None:
    """Raise a `UsageError` unless each is positive or not given, and `noise` and `expected` come with a `clip`."""
    if clip is not None:
        positive(who, "clip", clip, "leave it out for no clipping")
    not_negative(who, "noise", noise, "0 switches it off")
    if noise and clip is None:
        raise UsageError(f"{who}: noise is a multiple of the clipping norm; give clip as well, such as clip=1")
    not_negative(who, "noise * clip", noise * (clip or 0.0), "it is the noise's standard deviation")
    if expected is not None:
        positive(who, "`expected`", expected, "it is the expected batch size; leave it out to divide by the actual one")
        if clip is None:
            raise UsageError(f"{who}: expected divides the sum of clipped gradients; give clip as well, such as clip=1")
