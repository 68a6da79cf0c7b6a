"""A network whose BatchNorm layers normalise by given statistics, with the slopes that train mode has.

In train mode the slope of the loss at a BatchNorm layer's input is, with z the normalised values and N the
number of values that have one mean,

    (gamma / sigma) (delta - sum(delta) / N - z sum(delta z) / N)

where delta is the slope at its output. The sums are the gradients of beta and gamma, which the update holds. With them
and with the batch's statistics known, both the forward and the backward run work on one picture at a time: a picture's
slopes no longer depend on a guess of the others.

Reference:
    Frozen statistics: ours. BatchNorm's slopes: Ioffe and Szegedy, Batch Normalization, ICML 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from unveil.attacks.separation.frozen.statistics import FrozenStatistics
from unveil.core.network import in_mode
from unveil.core.types import Tensors


class FrozenBatchNorm(Module):
    """Normalises by given statistics; its parameters have the names of those of the BatchNorm layer.

    Args:
        layer: The BatchNorm layer.
        statistics: The batch's statistics.
        sums: The received gradients of beta and of gamma; zeros for slopes without the two sums, as in eval mode.
    """

    def __init__(
        self,
        layer: _BatchNorm,
        statistics: FrozenStatistics,
        sums: tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]],
    ) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.values = statistics.values
        kind = statistics.mean if layer.weight is None else layer.weight
        for name, buffer in (
            ("mean", statistics.mean),
            ("deviation", (statistics.variance.clamp_min(0) + layer.eps).sqrt()),
            ("beta_slope", sums[0]),
            ("gamma_slope", sums[1]),
        ):
            self.register_buffer(name, buffer.to(kind), persistent=False)

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    deviation: Tensor
    beta_slope: Tensor
    gamma_slope: Tensor

    @no_type_check  # its calls are counted where a network is watched, and checks at run time make calls of their own
    def forward(self, x: Float[Tensor, "n channels *places"]) -> Float[Tensor, "n channels *places"]:
        """Normalise, scale and shift."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        normalised = (x - self.mean.view(shape)) / self.deviation.view(shape)
        if self.weight is None or self.bias is None:
            return normalised
        gamma = self.weight.view(shape)
        first = gamma.detach() * self.beta_slope.view(shape) / self.values
        second = gamma.detach() * self.gamma_slope.view(shape) / self.values
        centred: Tensor = _Centred.apply(normalised, first, second)
        return centred * gamma + self.bias.view(shape)


class _Centred(Function):
    """The identity, whose slope is less by ``first + second * values``; it can be differentiated once."""

    @staticmethod
    @no_type_check
    def forward(
        context: Any,
        values: Float[Tensor, "*shape"],
        first: Float[Tensor, "*some"],
        second: Float[Tensor, "*some"],
    ) -> Float[Tensor, "*shape"]:
        context.save_for_backward(values, first, second)
        return values.clone()

    @staticmethod
    @no_type_check
    @once_differentiable  # a second pass through it would subtract the sums again
    def backward(context: Any, *slopes: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], None, None]:
        values, first, second = context.saved_tensors
        return slopes[0] - first - second * values, None, None


def frozen(model: Module, statistics: Mapping[str, FrozenStatistics], gradients: Tensors | None = None) -> Module:
    """Return a copy of a network with frozen statistics; it shares the parameters, and has the network's eval mode.

    Args:
        model: The network before local training.
        statistics: The batch's statistics of each BatchNorm layer by its name; other layers stay as they are.
        gradients: The received gradients, which give the sums in the slopes; None for slopes without them.
    """
    copied = in_mode(model, "eval")
    for name, layer in list(copied.named_modules()):
        if not isinstance(layer, _BatchNorm) or name not in statistics:
            continue
        # Two tensors, because a buffer that is another one too would be no buffer of its own.
        sums = torch.zeros_like(statistics[name].mean), torch.zeros_like(statistics[name].mean)
        if gradients is not None and layer.weight is not None:
            sums = gradients[f"{name}.bias"], gradients[f"{name}.weight"]
        parent, _, own = name.rpartition(".")
        replaced = FrozenBatchNorm(layer, statistics[name], sums).eval()
        setattr(copied.get_submodule(parent), own, replaced)
    return copied
