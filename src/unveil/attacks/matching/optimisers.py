"""The optimisers of the published methods, with their schedules of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS  # noqa: N811  (an abbreviation, not a constant)
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

Closure = Callable[[], Float[Tensor, ""]]
"""Computes the loss, writes its gradients to the variables, and returns the loss."""

Step = Callable[[Closure], Float[Tensor, ""]]
"""Calls the closure, changes the variables in place, and returns the loss before the change."""


@runtime_checkable
class Optimiser(Protocol):
    """The settings of an optimiser."""

    def start(self, variables: list[Float[Tensor, " ..."]], steps: int) -> Step:
        """Return the step function of a new run.

        Args:
            variables: The variables that are searched; they require gradients.
            steps: Number of steps of the run, at least 0.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with a decaying learning rate, on the gradient or on its sign.

    Args:
        lr: Learning rate of the first step, in the unit of the variables; more than 0.
        decay: `cosine` lowers the learning rate to `final_lr`; `steps` multiplies it by 0.1 after 3/8, 5/8 and 7/8 of
            the steps.
        final_lr: Learning rate at the end of the cosine, in the unit of the variables; at least 0.
        signed: Whether each entry of the gradient is replaced by its sign.
        memory: Adam's beta 2, in [0, 1): the share of the running mean of the squared gradient that each step keeps.

    Reference:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
    """

    lr: float
    decay: Literal["cosine", "steps"]
    final_lr: float = 0.0
    signed: bool = False
    memory: float = 0.999

    def start(self, variables: list[Float[Tensor, " ..."]], steps: int) -> Step:
        """Return the step function of a new run; see `Optimiser`."""
        adam = torch.optim.Adam(variables, lr=self.lr, betas=(0.9, self.memory))
        schedule: LRScheduler
        if self.decay == "cosine":
            schedule = CosineAnnealingLR(adam, T_max=max(steps, 1), eta_min=self.final_lr)
        else:
            milestones = [steps * k // 8 for k in (3, 5, 7)]  # torch would apply a milestone of 0 before the first step
            schedule = MultiStepLR(adam, milestones=[at for at in milestones if at > 0], gamma=0.1)

        def step(closure: Closure) -> Float[Tensor, ""]:
            loss = closure()
            if self.signed:
                for variable in variables:
                    if variable.grad is not None:
                        variable.grad.sign_()
            adam.step()
            schedule.step()
            return loss

        return step


@dataclass(frozen=True, kw_only=True)
class LBFGS:
    """L-BFGS without a line search; each step evaluates the loss at most 20 times.

    Args:
        lr: Factor of every move that L-BFGS proposes, more than 0.

    Reference:
        Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019.
    """

    lr: float = 1.0

    def start(self, variables: list[Float[Tensor, " ..."]], steps: int) -> Step:
        """Return the step function of a new run; see `Optimiser`."""
        optimiser = TorchLBFGS(variables, lr=self.lr)

        def step(closure: Closure) -> Float[Tensor, ""]:
            return torch.as_tensor(optimiser.step(closure))  # type: ignore[no-untyped-call]

        return step
