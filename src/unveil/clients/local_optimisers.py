"""SGD as clients use it, step by step: differentiable in the gradients, and on thin factors where it can."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.clients.local_steps import added
from unveil.core.bounds import not_negative, positive
from unveil.core.errors import UsageError
from unveil.core.factored import Factored, dense

Slope = Float[Tensor, " ..."] | Factored
"""A gradient of one parameter, or how far the parameter has moved."""


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, as `torch.optim.SGD` computes it.

    Args:
        lr: Learning rate, greater than 0.
        momentum: Heavy-ball momentum in [0, 1).
        dampening: Share of each gradient, but the first, that does not enter the momentum; in [0, 1].
        nesterov: Look ahead along the momentum; needs momentum, and no dampening.
        weight_decay: L2 penalty added to each gradient, 0 or more.

    Raises:
        UsageError: A setting is out of its range or has no effect.

    Reference:
        Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013 (Nesterov).
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        positive("FedAvg", "lr", self.lr, "with 0 the client would send zeros")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"FedAvg: expected 0 <= momentum < 1, got {self.momentum}; 0 switches it off")
        if not 0 <= self.dampening <= 1:
            raise UsageError(f"FedAvg: expected 0 <= dampening <= 1, got {self.dampening}; 0 switches it off")
        if self.dampening and not self.momentum:
            raise UsageError("FedAvg: dampening has no effect without momentum; give momentum as well, or leave it out")
        if self.nesterov and (not self.momentum or self.dampening):
            raise UsageError("FedAvg: nesterov needs momentum and no dampening; give momentum=0.9, leave dampening out")
        not_negative("FedAvg", "weight_decay", self.weight_decay, "0 switches it off")

    @property
    def is_thin(self) -> bool:
        """Whether thin gradients stay thin: weight decay adds the weights themselves, which have no thin factors."""
        return not self.weight_decay

    def step(
        self, weight: Float[Tensor, "*shape"], delta: Slope | None, slope: Slope, velocity: Slope | None
    ) -> tuple[Slope, Slope]:
        """Take one step.

        Args:
            weight: The weight before local training.
            delta: How far it has moved before this step, subtracted from the weight; None in the first step.
            slope: The gradient of this step.
            velocity: The momentum that the step before left; None in the first step.

        Returns:
            How far the weight has moved now, and the momentum for the next step.
        """
        if self.weight_decay:
            slope = torch.add(dense(slope), _now(weight, delta), alpha=self.weight_decay)
        if velocity is None:
            velocity = slope
        else:
            velocity = added(velocity * self.momentum, slope * (1 - self.dampening) if self.dampening else slope)
        ahead = added(slope, velocity * self.momentum) if self.nesterov else velocity
        return _moved(weight, delta, ahead, self.lr), velocity


def _moved(weight: Float[Tensor, "*shape"], delta: Slope | None, direction: Slope, lr: float) -> Slope:
    """Return how far a weight has moved after one more step; in float32 for weights of half precision.

    Args:
        weight: The weight before local training.
        delta: How far it has moved before this step; None in the first step.
        direction: What the step subtracts, over the learning rate.
        lr: The learning rate.
    """
    if weight.dtype in (torch.float16, torch.bfloat16):  # the client's weights are rounded after each step
        return weight.detach().float() - torch.add(_now(weight, delta), dense(direction), alpha=-lr).float()
    change = direction * lr
    return change if delta is None else added(delta, change)


def _now(weight: Float[Tensor, "*shape"], delta: Slope | None) -> Float[Tensor, "*shape"]:
    """Return the client's present weight, ``weight - delta``, rounded to the weight's type."""
    start = weight.detach()
    return start if delta is None else (start - dense(delta)).to(start.dtype)
