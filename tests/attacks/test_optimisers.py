"""Schedules of the learning rate, and what a search keeps when it diverges."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from pretended_card import CARD, CPU, pretended_card
from seeds import seeded
from unveil.attacks.matching.descent import LOOKED, StepReport, minimise
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


@pytest.mark.parametrize("decay", ["cosine", "steps"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_steps_are_those_of_torch_to_the_bit(decay: Literal["cosine", "steps"], steps: int) -> None:
    start, pulls = torch.randn(4, generator=seeded()), torch.randn((steps, 4), generator=seeded(1))
    own, other = start.clone().requires_grad_(), start.clone().requires_grad_()
    step = Adam(lr=0.3, decay=decay, final_lr=0.01, memory=0.9).start([own], steps)
    adam = torch.optim.Adam([other], lr=0.3, betas=(0.9, 0.9))
    milestones = [at for at in (steps * k // 8 for k in (3, 5, 7)) if at > 0]
    schedule = CosineAnnealingLR(adam, steps, 0.01) if decay == "cosine" else MultiStepLR(adam, milestones)

    def closure() -> Tensor:
        own.grad = pull.clone()
        return own.sum()

    for pull in pulls:
        step(closure)
        other.grad = pull.clone()
        adam.step()
        schedule.step()
        assert torch.equal(own, other)


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


def ended(
    device: torch.device, places: list[float], tolerance: float
) -> tuple[list[float], Stop, list[float], list[int]]:
    """Losses, reason, the two variables and the steps reported of a search that goes through places."""
    z, beside = (torch.tensor([3.0]).to(device).requires_grad_() for _ in range(2))
    following, heard = iter(places), list[int]()

    def step(closure: object) -> Tensor:
        loss = z.detach().square().sum()
        z.data.fill_(place := next(following))
        beside.data.fill_(10 * place)
        return loss

    losses, stop = minimise(
        z,
        lambda: z.sum(),
        step,
        len(places),
        project=lambda z: None,
        images=lambda: torch.zeros(1, 3, 8, 8),
        report=StepReport(planned=len(places), watch=lambda progress: heard.append(progress.step)),
        tolerance=tolerance,
        beside=[beside],
    )
    return losses, stop, [float(z.detach()), float(beside.detach())], heard


@pytest.mark.parametrize(
    ("places", "tolerance", "expected"),
    [
        ([2.0, 1.0, 0.5, math.inf, *[7.0] * 20], 0.0, ([9.0, 4.0, 1.0], Stop.DIVERGED, [0.5, math.inf])),
        ([2.0, math.nan, *[7.0] * 20], 0.0, ([9.0], Stop.DIVERGED, [2.0, math.nan])),
        ([1.0 + i / 1e4 for i in range(40)], 0.1, None),
        ([3.0 - i / 10 for i in range(23)], 0.0, None),
    ],
    ids=["diverges", "not a number", "stalls", "finishes"],
)
def test_a_search_on_a_card_ends_as_on_the_processor(
    places: list[float], tolerance: float, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    *here, each = ended(CPU, places, tolerance)
    with pretended_card(monkeypatch):
        *there, some = ended(CARD, places, tolerance)
    assert repr(there) == repr(here)  # of NaN too
    assert expected is None or repr(here) == repr(list(expected))  # type: ignore[call-overload]
    assert each == list(range(1, len(here[0]) + 1))
    last = [] if here[1] is Stop.DIVERGED else each[-1:]
    assert some == sorted({*[number for number in each if number % LOOKED == 0], *last})
