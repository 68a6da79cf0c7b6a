"""The optimisation loop of every attack that searches pictures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.matching.optimisers import Closure, Step
from unveil.core.reconstruction import Stop
from unveil.core.types import Images
from unveil.core.watch import Progress, Watch

PATIENCE = 25  # steps over which the loss may stay the same before a run counts as stalled


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Calls a watcher after each step, with the number of the step in the whole attack.

    Args:
        planned: Steps of the whole attack.
        done: Steps taken before the present stage.
        watch: The function to call; None for none.
    """

    planned: int
    done: int = 0
    watch: Watch | None = None

    def __call__(self, number: int, loss: float, images: Callable[[], Images]) -> None:
        """Report a step.

        Args:
            number: Number of the step in the present stage, counted from 1.
            loss: The loss before the step.
            images: Returns the pictures after the step.
        """
        if self.watch is not None:
            self.watch(Progress(self.done + number, self.planned, loss, images))


def minimise(
    z: Float[Tensor, " ..."],
    closure: Closure,
    step: Step,
    steps: int,
    *,
    project: Callable[[Float[Tensor, " ..."]], None],
    images: Callable[[], Images],
    report: StepReport,
    tolerance: float = 0.0,
) -> tuple[list[float], Stop]:
    """Minimise a loss: after each step of the optimiser, project the variable and report the step.

    The run ends when all steps are taken, when the loss has stayed the same for `PATIENCE` steps, or when the loss or
    the variable is no longer finite.

    Args:
        z: The variable that is searched, changed in place. After a divergence it has the value at which the loss was
            lowest.
        closure: Computes the loss and writes its gradients to the variables.
        step: The step of the optimiser.
        steps: Number of steps, at least 0.
        project: Moves z back into the range that is allowed, in place.
        images: Returns the pictures that z stands for.
        report: Called after each step.
        tolerance: Largest relative change of the loss over `PATIENCE` steps that counts as the same loss, at least 0.

    Returns:
        The loss before each step, and why the run ended.
    """
    losses: list[float] = []
    best, best_z = math.inf, z.detach().clone()
    recent: deque[float] = deque(maxlen=PATIENCE + 1)
    for _ in range(steps):
        before = z.detach().clone()
        loss = float(step(closure))
        if math.isfinite(loss) and loss < best:
            best, best_z = loss, before
        if not math.isfinite(loss) or not bool(torch.isfinite(z).all()):
            with torch.no_grad():
                z.copy_(best_z)
            return losses, Stop.DIVERGED
        with torch.no_grad():
            project(z)
        recent.append(loss)
        losses.append(loss)
        report(len(losses), loss, images)
        if len(recent) > PATIENCE and max(recent) - min(recent) <= tolerance * abs(max(recent)):
            return losses, Stop.STALLED
    return losses, Stop.FINISHED
