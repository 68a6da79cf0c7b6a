"""The optimisation loop of every attack that searches pictures."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.matching.optimisers import Closure, Step
from unveil.core.reconstruction import Stop
from unveil.core.types import Images
from unveil.core.watch import Progress, Watch

PATIENCE = 25  # steps over which the loss may stay the same before a run counts as stalled

LOOKED = 10
"""Steps after which a search on a card is looked at: a look lets the processor wait, and the card then for it."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Calls a watcher after each step that is looked at, with the number of the step in the whole attack.

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
    beside: Sequence[Float[Tensor, " ..."]] = (),
) -> tuple[list[float], Stop]:
    """Minimise a loss: after each step of the optimiser, project the variable and report the step.

    The run ends when all steps are taken, when the loss has stayed the same for `PATIENCE` steps, or when the loss or
    the variable is no longer finite. On a processor each step is looked at. On other devices every `LOOKED` steps are
    looked at together; those that were taken after the end of the run are undone, so the result is the same.

    Args:
        z: The variable that is searched, changed in place. After a divergence it has the value at which the loss was
            lowest.
        closure: Computes the loss and writes its gradients to the variables.
        step: The step of the optimiser.
        steps: Number of steps, at least 0.
        project: Moves z back into the range that is allowed, in place.
        images: Returns the pictures that z stands for.
        report: Called after each step on a processor, and after those that are looked at elsewhere.
        tolerance: Largest relative change of the loss over `PATIENCE` steps that counts as the same loss, at least 0.
        beside: Other variables that the optimiser changes; they end with the values after the last step that counts.

    Returns:
        The loss before each step, and why the run ended.
    """
    losses: list[float] = []
    best, best_z = math.inf, z.detach().clone()
    recent: deque[float] = deque(maxlen=PATIENCE + 1)
    looked = 1 if z.device.type == "cpu" else LOOKED
    while len(losses) < steps:
        places, seen = [[v.detach().clone() for v in (z, *beside)]], list[Tensor]()
        for _ in range(min(looked, steps - len(losses))):
            loss = torch.as_tensor(step(closure)).detach()
            seen.append(torch.stack([loss.double(), torch.isfinite(z).all().double()]))
            with torch.no_grad():
                project(z)
            places.append([v.detach().clone() for v in (z, *beside)])
        for number, (value, is_finite) in enumerate(torch.stack(seen).tolist()):
            if math.isfinite(value) and value < best:
                best, best_z = value, places[number][0]
            if not math.isfinite(value) or not is_finite:
                _put([z, *beside], [best_z, *places[number + 1][1:]])
                return losses, Stop.DIVERGED
            recent.append(value)
            losses.append(value)
            stalled = len(recent) > PATIENCE and max(recent) - min(recent) <= tolerance * abs(max(recent))
            if stalled:
                _put([z, *beside], places[number + 1])
            if stalled or number == len(seen) - 1:
                report(len(losses), value, images)
            if stalled:
                return losses, Stop.STALLED
    return losses, Stop.FINISHED


def _put(variables: Sequence[Float[Tensor, " ..."]], values: Sequence[Float[Tensor, " ..."]]) -> None:
    """Give variables other values, in place."""
    with torch.no_grad():
        for variable, value in zip(variables, values, strict=True):
            variable.copy_(value)
