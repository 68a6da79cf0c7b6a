"""Schedules of the learning rate, and what a search keeps when it diverges."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unveil.attacks.matching.descent import StepReport, minimise
from unveil.attacks.matching.optimisers import Adam
from unveil.core.reconstruction import Stop


def moves(steps: int) -> list[float]:
    """How far each step moves a variable whose gradient is always 1: the learning rate of that step."""
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def closure() -> Tensor:
        z.grad = torch.ones_like(z)
        return z.sum()

    step = Adam(lr=1.0, decay="steps").start([z], steps)
    places = [0.0]
    for _ in range(steps):
        step(closure)
        places.append(float(z.detach()))
    return [before - after for before, after in pairwise(places)]


@pytest.mark.parametrize(
    ("steps", "rates"),
    [
        (1, [1]),
        (2, [1, 0.01]),
        (3, [1, 0.01, 0.001]),
        (8, [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]),
    ],
)
def test_the_learning_rate_falls_after_three_five_and_seven_eighths_and_never_before_the_first_step(
    steps: int, rates: list[float]
) -> None:
    assert moves(steps) == pytest.approx(rates, rel=1e-6)


def test_a_step_to_nowhere_keeps_the_place_with_the_lowest_loss() -> None:
    z = torch.tensor([3.0], requires_grad=True)
    places = iter([2.0, 1.0, math.inf])

    def step(closure: object) -> Tensor:
        loss = z.detach().square().sum()
        z.data.fill_(next(places))
        return loss

    def nothing(_: Tensor) -> None:
        return None

    losses, stop = minimise(
        z,
        lambda: z.sum(),
        step,
        10,
        project=nothing,
        images=lambda: torch.zeros(1, 3, 8, 8),
        report=StepReport(planned=10),
    )
    assert stop is Stop.DIVERGED
    assert losses == [9.0, 4.0]
    assert float(z.detach()) == 1.0
