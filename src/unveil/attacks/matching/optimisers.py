"""The optimisers of the published methods, with their schedules of the learning rate."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS  # noqa: N811  (an abbreviation, not a constant)
from torch.optim.adam import adam

EPSILON = 1e-8  # added to the root of Adam's mean square, as torch does by default

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
        means, squares = ([torch.zeros_like(variable) for variable in variables] for _ in range(2))
        counts = [torch.zeros(()) for _ in variables]
        rates = self._rates(steps)

        def step(closure: Closure) -> Float[Tensor, ""]:
            loss = closure()
            moved = [number for number, variable in enumerate(variables) if variable.grad is not None]
            if self.signed:
                for number in moved:
                    torch.as_tensor(variables[number].grad).sign_()
            # Not `torch.optim.Adam`, which imports torch's compiler: more memory than a small attack, and a second.
            with torch.no_grad():
                adam(
                    [variables[number] for number in moved],
                    [torch.as_tensor(variables[number].grad) for number in moved],
                    [means[number] for number in moved],
                    [squares[number] for number in moved],
                    [],
                    [counts[number] for number in moved],
                    amsgrad=False,
                    beta1=0.9,
                    beta2=self.memory,
                    lr=next(rates),
                    weight_decay=0.0,
                    eps=EPSILON,
                    maximize=False,
                )
            return loss

        return step

    def _rates(self, steps: int) -> Iterator[float]:
        """The learning rate of each step, without end; rounded as `torch.optim.lr_scheduler` rounds it."""
        if self.decay == "steps":
            # A milestone of 0 would be one before the first step.
            milestones = Counter(at for at in (steps * k // 8 for k in (3, 5, 7)) if at > 0)
            lr = self.lr
            for number in itertools.count():
                lr *= 0.1 ** milestones[number]
                yield lr
        period, lr = max(steps, 1), self.lr
        yield lr
        for number in range(1, period + 1):
            share = (1 + math.cos(math.pi * number / period)) / (1 + math.cos(math.pi * (number - 1) / period))
            lr = share * (lr - self.final_lr) + self.final_lr
            yield lr
        yield from itertools.repeat(lr)


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
