"""The weight of the regulariser of a search that matches updates is chosen by the received update alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seeds import seeded, shifted
from unveil.attacks import FeatureInversion
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.smoothness import FACTORS, FEWEST, NEARLY, ChooseSmoothness, nearly_least
from unveil.attacks.separation.state import Problem, State
from unveil.attacks.separation.update_matching import MatchUpdates
from unveil.clients.client import Client
from unveil.obfuscations import parse as obfuscation_of

STEPS = 40
GREY = torch.full((1, 3, 16, 16), 0.5)


def victim() -> Client:
    """One picture behind a network that pools, with an activation that cannot be peeled."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        layers = (nn.Conv2d(3, 16, 3, 1, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
        model = nn.Sequential(*layers)
    return Client(model, dead_leaves(1, (3, 16, 16), generator=seeded(1)), torch.tensor([2]))


def problem_of(client: Client) -> Problem:
    known = obfuscation_of("none")
    return Problem(
        model=client.model,
        update=client.update(known),
        knowledge=client.knowledge(known),
        labels=client.labels,
        generator=seeded(3),
    )


def search_of(smoothness: float) -> MatchUpdates:
    return MatchUpdates.of(FeatureInversion().search, steps=STEPS, smoothness=smoothness)


def cosine_distance(client: Client, pictures: Tensor) -> float:
    """The cosine distance of the gradients of two batches, by plain torch."""

    def gradient(images: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(client.model(images), client.labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(client.model.parameters()))])

    return 1 - float(torch.cosine_similarity(gradient(pictures).double(), gradient(client.images).double(), dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("smoothness", [0.12, 1200.0])
def test_the_choice_is_that_of_all_weights_tried_one_by_one(smoothness: float) -> None:
    """The pictures are bit for bit those of the search with the chosen weight, which a short search does not move."""
    client = victim()
    left = []
    for factor in FACTORS:
        short = replace(search_of(factor * smoothness), steps=FEWEST)
        left.append(cosine_distance(client, short(problem_of(client), State(pictures=GREY)).pictures))
    expected = next(factor for factor, value in zip(FACTORS, left, strict=True) if value <= NEARLY * min(left))
    assert expected == (1.0 if smoothness == 0.12 else FACTORS[-1])

    found = ChooseSmoothness(search=search_of(smoothness))(problem_of(client), State(pictures=GREY))
    usual = search_of(expected * smoothness)(problem_of(client), State(pictures=GREY))
    assert torch.equal(found.pictures, usual.pictures)
    assert found.losses == usual.losses
    (note,) = found.notes
    assert f"by the received update alone: of 1 and 0.001 times the usual one, {expected:g} is the largest" in note


@pytest.mark.slow
def test_a_search_of_a_few_steps_or_without_a_regulariser_has_no_choice() -> None:
    for search in (replace(search_of(12.0), steps=2), search_of(0.0)):
        assert ChooseSmoothness(search=search).steps == search.steps
        assert not ChooseSmoothness(search=search)(problem_of(victim()), State(pictures=GREY)).notes


def test_the_largest_weight_that_is_nearly_as_good_is_taken() -> None:
    assert nearly_least([1.0, 1.0]) == 0
    assert nearly_least([NEARLY, 1.0]) == 0
    assert nearly_least([1.01 * NEARLY, 1.0]) == 1
    assert nearly_least([math.nan, 3.0]) == 1
    assert nearly_least([math.nan, math.nan]) == 0
