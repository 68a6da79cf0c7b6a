"""The local steps of a client: one gradient after the other, and the buffers that a step leaves to the next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import Candidate, Factored, dense, square_norm
from unveil.core.gradient import Gradient, gradient, thin_weights
from unveil.core.loss import MEAN, Loss, LossName, Reduction
from unveil.core.network import Draws, fresh_buffers, seed_of


class OwnLoss:
    """A local training with the settings of its loss."""

    loss: LossName
    label_smoothing: float
    reduction: Reduction

    @property
    def local_loss(self) -> Loss:
        """The loss of each step; see `NamesLoss`."""
        return Loss(name=self.loss, label_smoothing=self.label_smoothing, reduction=self.reduction)


class LocalSteps:
    """The network of a client during its local steps, and the buffers that one step leaves to the next.

    Args:
        model: The network in the client's mode.
        clip: Clipping norm of each example's gradient; None for no clipping.
        draws: Seed of the network's random draws; None to replace every draw by its mean.
        differentiable: Keep the graph, so that gradients can be differentiated with respect to the batch.
        may_be_thin: Factor the gradients of large Linear weights.
        loss: Mean or sum over the pictures of a step, and label smoothing.
        expected: With clipping, what the sum over the pictures of a step is divided by, whatever their number; None for
            their number, or for 1 if the loss is a sum.
    """

    def __init__(
        self,
        model: Module,
        clip: float | None,
        *,
        draws: Draws,
        differentiable: bool = False,
        may_be_thin: bool = True,
        loss: Loss = MEAN,
        expected: float | None = None,
    ) -> None:
        self.model = model
        self.clip = clip
        self.draws = draws
        self.differentiable = differentiable
        self.thin = thin_weights(model) if may_be_thin else frozenset[str]()
        self.buffers = fresh_buffers(model)
        self.loss = loss
        self.expected = expected

    def gradient(self, delta: Candidate, batch: Batch, *, step: int = 0) -> Gradient:
        """Compute the gradient of one local step; with a clipping norm, each example's gradient is clipped first.

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
            share = (self.clip / norm).clamp(max=1.0) / self.divisor(len(batch))
            for name, slope in slopes.items():
                total[name] = slope * share if name not in total else added(total[name], slope * share)
        return total

    def divisor(self, pictures: int) -> float:
        """Return what the sum of the clipped gradients of a step, and its noise, are divided by."""
        if self.loss.reduction == "sum":
            return 1.0
        return self.expected or pictures

    def _once(self, delta: Candidate, batch: Batch, draws: Draws) -> Gradient:
        return gradient(
            self.model,
            delta,
            batch,
            differentiable=self.differentiable,
            thin=self.thin,
            buffers=self.buffers,
            draws=draws,
            loss=self.loss,
        )

    def buffer_changes(self) -> Mapping[str, Shaped[Tensor, " ..."]]:
        """Return value now minus value before the first step of each buffer of the `state_dict` that changed.

        Buffers of True and False are left out.
        """
        found = {}
        before, kept = dict(self.model.named_buffers()), self.model.state_dict()
        for name, after in self.buffers.items():
            old = before[name]
            if name in kept and after.dtype != torch.bool and not torch.equal(after, old):
                found[name] = (after.double() - old.double()).to(old.dtype) if old.is_floating_point() else after - old
        return found


def draws_of(generator: Generator | None) -> int:
    """Return the seed of the random draws of a client's network: that of its generator, or 0 without one."""
    return 0 if generator is None else generator.initial_seed() % 2**63


def added(
    a: Float[Tensor, "*shape"] | Factored, b: Float[Tensor, "*shape"] | Factored
) -> Float[Tensor, "*shape"] | Factored:
    """Return the sum, factored if both are."""
    return a + b if isinstance(a, Factored) and isinstance(b, Factored) else dense(a) + dense(b)
