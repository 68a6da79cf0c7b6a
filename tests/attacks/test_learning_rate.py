"""The learning rate of a search that matches features is the one that ends at the least loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from attacks.test_determined import problem_and_state, search
from unveil.attacks.separation.learning_rate import FACTORS, ChooseLearningRate
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State
from unveil.core.watch import Progress

STEPS = 20


@pytest.mark.parametrize("lr", [0.03, 3.0])
def test_the_choice_is_that_of_all_rates_tried_one_by_one(lr: float) -> None:
    problem, state = problem_and_state()
    usual = replace(search(STEPS), lr=lr)
    alone = [replace(usual, lr=factor * lr)(problem, state) for factor in FACTORS]
    best = min(range(len(FACTORS)), key=lambda number: alone[number].losses[-1])
    assert (best == 0) is (lr < 1)  # steps of more than the whole range of pixels are too large

    found = ChooseLearningRate(search=usual)(problem, state)
    assert torch.equal(found.pictures, alone[best].pictures)
    assert found.learning_rates == FACTORS[best]
    assert found.losses == tuple(loss for one in alone for loss in one.losses)
    assert bool(found.notes) is (best > 0)
    assert all(f"took {FACTORS[best]:g} times the usual learning rate" in note for note in found.notes)


def test_later_searches_take_the_chosen_rate_too() -> None:
    problem, state = problem_and_state()
    slower = search(STEPS)(problem, replace(state, learning_rates=0.1))
    assert torch.equal(slower.pictures, replace(search(STEPS), lr=0.1 * search().lr)(problem, state).pictures)


def test_progress_counts_the_steps_of_every_try() -> None:
    problem, state = problem_and_state()
    heard: list[Progress] = []
    stage = ChooseLearningRate(search=search(STEPS))
    stage(replace(problem, planned=stage.steps, watch=heard.append), state)
    assert [one.step for one in heard] == list(range(1, 3 * STEPS + 1))
    assert stage.steps == 3 * STEPS


@dataclass(frozen=True, kw_only=True)
class Ending(MatchFeatures):
    """A search that ends at a given loss for each learning rate."""

    losses: tuple[float, ...] = ()

    def __call__(self, problem: Problem, state: State) -> State:
        loss = self.losses[FACTORS.index(state.learning_rates)]
        return replace(state, losses=(*state.losses, loss))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [((math.nan, 3.0, 2.0), 0.1), ((5.0, math.nan, math.inf), 1.0), ((math.nan, 3.0, math.nan), 0.3)],
)
def test_a_search_that_diverged_is_not_chosen(losses: tuple[float, ...], expected: float) -> None:
    problem, state = problem_and_state()
    usual = search()
    ending = Ending(**{name: getattr(usual, name) for name in usual.__dataclass_fields__}, losses=losses)
    assert ChooseLearningRate(search=ending)(problem, state).learning_rates == expected
