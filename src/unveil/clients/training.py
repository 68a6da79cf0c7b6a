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
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from unveil.core.batch import Batch
from unveil.core.bounds import not_negative, positive, whole
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, Factored, dense, square_norm
from unveil.core.gradient import Gradient, gradient, thin_weights
from unveil.core.network import Draws, Mode, fresh_buffers, in_mode, seed_of
from unveil.core.protocols import LocalTraining, MayBeShortened
from unveil.core.registry import build, spec_of
from unveil.core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class FedSGD:
    """Send the gradient of the mean cross-entropy on the whole batch.

    Args:
        mode: The client's mode: `eval`, or `train`, in which BatchNorm uses the batch's own statistics.
        clip: DP-SGD: each example's gradient is clipped to this L2 norm before the mean; None for no clipping.
        noise: DP-SGD: noise multiplier; the mean gets Gaussian noise of standard deviation noise * clip / n.

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

    def __post_init__(self) -> None:
        _check_privacy("FedSGD", self.clip, self.noise)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the gradient that the client sends; see `LocalTraining`."""
        sent = _Client(in_mode(model, self.mode), self.clip, draws=draws_of(generator)).gradient({}, batch)
        return _noised(_detached(sent), self.noise * (self.clip or 0.0) / len(batch), generator)

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the gradient without noise, differentiable in the batch; large Linear weights are factored."""
        client = _Client(in_mode(model, self.mode), self.clip, draws=draws, differentiable=_is_searched(batch))
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
        _check_privacy("FedAvg", self.clip, self.noise)

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """Return the weight difference that the client sends; see `LocalTraining`."""
        return _detached(self._run(model, batch, draws_of(generator), differentiable=False, generator=generator))

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """Return the difference without noise, differentiable through every step; large Linear weights are factored."""
        return self._run(model, batch, draws, differentiable=_is_searched(batch), generator=None)

    __str__ = spec_of

    def _run(
        self, model: Module, batch: Batch, draws: Draws, *, differentiable: bool, generator: Generator | None
    ) -> Candidate:
        # Weight decay adds the weights themselves, which have no thin factors.
        client = _Client(
            in_mode(model, self.mode),
            self.clip,
            draws=draws,
            differentiable=differentiable,
            may_be_thin=not self.weight_decay,
        )
        parameters = dict(client.model.named_parameters())
        delta: Gradient = {}
        velocity: Gradient = {}
        for number, rows in enumerate(self._order(len(batch))):
            part = Batch(batch.images[rows], batch.labels[rows])
            step: Candidate = client.gradient(delta, part, step=number)
            if generator is not None and self.noise and self.clip:
                step = _noised(_detached(step), self.noise * self.clip / len(part), generator)
            for name, slope in step.items():
                if self.weight_decay:
                    now = _now(parameters[name], delta.get(name))
                    slope = torch.add(dense(slope), now, alpha=self.weight_decay)
                velocity[name] = slope if name not in velocity else _sum(velocity[name] * self.momentum, slope)
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


class _Client:
    """A client during its local steps: its network and the buffers that one step leaves to the next.

    Args:
        model: The network in the client's mode.
        clip: Clipping norm of each example's gradient; None for no clipping.
        draws: Seed of the network's random draws; None to replace every draw by its mean.
        differentiable: Keep the graph, so that gradients can be differentiated with respect to the batch.
        may_be_thin: Factor the gradients of large Linear weights.
    """

    def __init__(
        self,
        model: Module,
        clip: float | None,
        *,
        draws: Draws,
        differentiable: bool = False,
        may_be_thin: bool = True,
    ) -> None:
        self.model = model
        self.clip = clip
        self.draws = draws
        self.differentiable = differentiable
        self.thin = thin_weights(model) if may_be_thin else frozenset[str]()
        self.buffers = fresh_buffers(model)

    def gradient(self, delta: Candidate, batch: Batch, *, step: int = 0) -> Gradient:
        """Compute the mean gradient of one local step; with a clipping norm, each example's gradient is clipped first.

        Args:
            delta: How far each parameter has moved from the model's own value.
            batch: The mini-batch.
            step: Number of the step, from 0; each step has random draws of its own.

        Raises:
            UsageError: The model cannot be run or differentiated, or has BatchNorm in train mode beside clipping.
        """
        if self.clip is None:
            return self._once(delta, batch, seed_of(self.draws, step))
        if self.model.training and any(isinstance(m, _BatchNorm) for m in self.model.modules()):
            raise UsageError(
                "training: per-example clipping has no meaning with BatchNorm in train mode, which mixes the examples; "
                "use mode=eval or a model with GroupNorm"
            )
        total: Gradient = {}
        for i in range(len(batch)):
            one = Batch(batch.images[i : i + 1], batch.labels[i : i + 1])
            slopes = self._once(delta, one, seed_of(self.draws, step, i))
            norm = torch.stack([square_norm(slope) for slope in slopes.values()]).sum().clamp_min(1e-24).sqrt()
            share = (self.clip / norm).clamp(max=1.0) / len(batch)
            for name, slope in slopes.items():
                total[name] = slope * share if name not in total else _sum(total[name], slope * share)
        return total

    def _once(self, delta: Candidate, batch: Batch, draws: Draws) -> Gradient:
        return gradient(
            self.model,
            delta,
            batch,
            differentiable=self.differentiable,
            thin=self.thin,
            buffers=self.buffers,
            draws=draws,
        )


def draws_of(generator: Generator | None) -> int:
    """Return the seed of the random draws of a client's network: that of its generator, or 0 without one."""
    return 0 if generator is None else generator.initial_seed() % 2**63


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
    return change if delta is None else _sum(delta, change)


def _now(weight: Float[Tensor, "*shape"], delta: Float[Tensor, "*shape"] | Factored | None) -> Float[Tensor, "*shape"]:
    """Return the client's present weight, ``weight - delta``, rounded to the weight's type."""
    start = weight.detach()
    return start if delta is None else (start - dense(delta)).to(start.dtype)


def _sum(
    a: Float[Tensor, "*shape"] | Factored, b: Float[Tensor, "*shape"] | Factored
) -> Float[Tensor, "*shape"] | Factored:
    """Return the sum, factored if both are."""
    return a + b if isinstance(a, Factored) and isinstance(b, Factored) else dense(a) + dense(b)


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


def _check_privacy(who: str, clip: float | None, noise: float) -> None:
    """Raise a `UsageError` unless `clip` is positive or None, and `noise` is 0, or positive with a `clip`."""
    if clip is not None:
        positive(who, "clip", clip, "leave it out for no clipping")
    not_negative(who, "noise", noise, "0 switches it off")
    if noise and clip is None:
        raise UsageError(f"{who}: noise is a multiple of the clipping norm; give clip as well, such as clip=1")
    not_negative(who, "noise * clip", noise * (clip or 0.0), "it is the noise's standard deviation")
