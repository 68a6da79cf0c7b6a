"""The one optimisation loop: every attack that searches, searches with it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.attacks.matching.optimisers import Step
from unveil.core.types import Images, Progress, Stop, Watch

PATIENCE = 25  # steps over which the loss may stay the same before a run counts as stalled


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Tells a watcher of each step, counted over all stages of an attack.

    Args:
        planned: Steps of the whole attack.
        done: Steps taken before the present stage.
        watch: Who is told; None for nobody.
    """

    planned: int
    done: int = 0
    watch: Watch | None = None

    def __call__(self, number: int, loss: float, images: Callable[[], Images]) -> None:
        """Report step `number` of the present stage, counted from 1."""
        if self.watch is not None:
            self.watch(Progress(self.done + number, self.planned, loss, images))


def minimise(
    z: Tensor,
    closure: Callable[[], Tensor],
    step: Step,
    steps: int,
    *,
    project: Callable[[Tensor], None],
    images: Callable[[], Images],
    report: StepReport,
    tolerance: float = 0.0,
) -> tuple[list[float], Stop]:
    """Step, project, report, until the steps are taken, the loss stays the same or stops being a number.

    Args:
        z: What is searched, of any shape; changed in place. After a divergence it is back where the loss was lowest.
        closure: Computes the loss and leaves its gradients in the variables.
        step: The optimiser.
        steps: Steps to take.
        project: Brings z back to where it is allowed to be, in place.
        images: The pictures that z stands for.
        report: Is told of each step.
        tolerance: The run has stalled once the loss changes by at most this share of itself in `PATIENCE` steps.

    Returns:
        The loss before each step, and why the run ended.
    """
    losses: list[float] = []
    best, best_z = math.inf, z.detach().clone()
    recent: deque[float] = deque(maxlen=PATIENCE + 1)
    for _ in range(steps):
        before = z.detach().clone()
        loss = float(step(closure))
        if not math.isfinite(loss) or not bool(torch.isfinite(z).all()):
            with torch.no_grad():
                z.copy_(best_z)
            return losses, Stop.DIVERGED
        if loss < best:
            best, best_z = loss, before
        with torch.no_grad():
            project(z)
        recent.append(loss)
        losses.append(loss)
        report(len(losses), loss, images)
        if len(recent) > PATIENCE and max(recent) - min(recent) <= tolerance * abs(max(recent)):
            return losses, Stop.STALLED
    return losses, Stop.FINISHED
