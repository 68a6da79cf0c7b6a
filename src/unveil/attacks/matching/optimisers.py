"""How an attack walks: the optimisers and schedules of the published methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS  # noqa: N811  (an abbreviation, not a constant)
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

Step = Callable[[Callable[[], Tensor]], Tensor]
"""Takes a closure that computes the loss and its gradients, moves the variables, returns the loss before the move."""


@runtime_checkable
class Optimiser(Protocol):
    """Settings of an optimiser."""

    def start(self, variables: list[Tensor], steps: int) -> Step:
        """Begin a run of `steps` steps on these variables."""
        ...


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with a decaying learning rate, on the gradient or on its sign.

    Args:
        lr: Learning rate of the first step.
        decay: `cosine`: down to `final_lr`; `steps`: times 0.1 after 3/8, 5/8 and 7/8 of the steps.
        final_lr: Where the cosine ends.
        signed: Use only the sign of each gradient entry.
        memory: Decay of the mean square of the gradient; the lower, the sooner it follows.
    """

    lr: float
    decay: Literal["cosine", "steps"]
    final_lr: float = 0.0
    signed: bool = False
    memory: float = 0.999

    def start(self, variables: list[Tensor], steps: int) -> Step:
        """Begin a run; see `Optimiser`."""
        adam = torch.optim.Adam(variables, lr=self.lr, betas=(0.9, self.memory))
        schedule: LRScheduler
        if self.decay == "cosine":
            schedule = CosineAnnealingLR(adam, T_max=max(steps, 1), eta_min=self.final_lr)
        else:
            schedule = MultiStepLR(adam, milestones=[steps * k // 8 for k in (3, 5, 7)], gamma=0.1)

        def step(closure: Callable[[], Tensor]) -> Tensor:
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
    """L-BFGS as Deep Leakage from Gradients runs it; one step makes up to 20 evaluations.

    Args:
        lr: Length of each move.
    """

    lr: float = 1.0

    def start(self, variables: list[Tensor], steps: int) -> Step:
        """Begin a run; see `Optimiser`."""
        optimiser = TorchLBFGS(variables, lr=self.lr)

        def step(closure: Callable[[], Tensor]) -> Tensor:
            return torch.as_tensor(optimiser.step(closure))  # type: ignore[no-untyped-call]

        return step
