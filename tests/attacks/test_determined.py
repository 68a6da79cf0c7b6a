"""Where exact features determine a picture, the search goes on with less smoothness and from disturbed pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.test_smoothness import problem_of
from seeds import seeded
from unveil.attacks import FeatureInversion
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation import determined
from unveil.attacks.separation.attack import fold
from unveil.attacks.separation.determined import SearchDetermined, disturbed, missed, nearer
from unveil.attacks.separation.factorisation import FeatureEstimate
from unveil.attacks.separation.peeled import KnownMaps
from unveil.attacks.separation.peeling.map_body import MapBody
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Problem, State
from unveil.clients.client import Client
from unveil.core.reconstruction import FeatureFit
from unveil.core.watch import Progress

SIDE = 16
PICTURES = dead_leaves(2, (3, SIDE, SIDE), generator=seeded(3))
STEPS = 30


def victim(channels: int) -> Client:
    """Two pictures behind a convolution, max-pooling and ReLU, and a second convolution that reads the map."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Conv2d(3, channels, 5, 2, 2)
        layers = (first, nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1))
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4)).eval()
    return Client(model, PICTURES, torch.tensor([0, 2]))


def problem_and_state(channels: int = 24, *, noise: float = 0.0, residual: float = 0.0) -> tuple[Problem, State]:
    """The problem, and the state with the exact map before the second convolution, 8 px a side."""
    client = victim(channels)
    problem = problem_of(client)
    body = MapBody(
        model=client.model, convolution="3.weight", image_shape=(3, SIDE, SIDE), feature_map=(channels, 8, 8)
    )
    features = body.features(PICTURES).detach()
    covariance = noise * torch.eye(2)[None]
    estimate = FeatureEstimate(features, torch.zeros(2, 0), covariance, residual)
    refiner = KnownMaps(body=body, estimate=estimate, notes=())
    return problem, State(pictures=torch.full_like(PICTURES, 0.5), refiner=refiner)


def search(steps: int = STEPS) -> MatchFeatures:
    return MatchFeatures(steps=steps, lr=0.01, floor=0.05, smoothness=12.0, tuning=FeatureInversion().search)


def fit(*misses: float) -> FeatureFit:
    return FeatureFit(noise=torch.zeros(len(misses)), miss=torch.tensor(misses))


@pytest.mark.parametrize(
    ("channels", "noise", "residual", "expected"),
    [(12, 0.0, 1e-4, True), (11, 0.0, 0.0, False), (24, 1e-9, 0.0, False), (24, 0.0, 3e-3, False)],
)
def test_it_is_for_exact_features_that_are_as_many_as_pixels(
    channels: int, noise: float, residual: float, *, expected: bool
) -> None:
    # A map of 12 channels of 8 x 8 has as many numbers as a picture of 3 channels of 16 x 16.
    _, state = problem_and_state(channels, noise=noise, residual=residual)
    assert SearchDetermined(search=search()).applies(state) is expected


def test_it_is_not_for_a_batch_that_was_not_separated() -> None:
    assert not SearchDetermined(search=search()).applies(State(pictures=PICTURES))


@pytest.mark.parametrize("channels", [11, 12])
def test_progress_counts_the_steps_that_will_be_taken(channels: int) -> None:
    problem, state = problem_and_state(channels)
    heard: list[Progress] = []
    first, further = search(5), SearchDetermined(search=search(2))
    ended = fold((first, further), replace(problem, watch=heard.append), state)
    total = 5 + (further.steps if channels == 12 else 0)
    assert [one.steps for one in heard] == [total] * total
    assert [one.step for one in heard] == list(range(1, total + 1))
    assert len(ended.losses) == total


def test_pictures_are_disturbed_where_they_miss_the_features() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    off = torch.zeros(1, 1, 8, 8)
    off[..., 4:] = 2.0
    change = disturbed(grey, off, generator=seeded(1)) - grey
    assert not change[..., :28].any()
    right = change[..., 36:]
    assert 0.4 * determined.DISTURBED < float(right.std()) < determined.DISTURBED
    assert float(right.mean().abs()) < 0.03
    assert not torch.equal(change, disturbed(grey, off, generator=seeded(2)) - grey)
    assert torch.equal(disturbed(grey, 0 * off, generator=seeded(1)), grey)


def test_what_is_missed_lies_where_the_pictures_differ() -> None:
    _, state = problem_and_state()
    assert float(missed(replace(state, pictures=PICTURES)).max()) == pytest.approx(0, abs=1e-9)
    other = PICTURES.clone()
    other[1, :, :4, :4] = 1 - other[1, :, :4, :4]
    off = missed(replace(state, pictures=other))
    assert off.shape == (2, 1, 8, 8)
    assert not off[0].any()
    assert float(off[1, 0, :2, :2].min()) > 0
    assert not off[1, 0, 6:, 6:].any()


def test_the_nearer_picture_of_each_is_kept() -> None:
    before = State(pictures=torch.zeros(3, 1, 2, 2), losses=(1.0,), evidence=fit(0.1, 0.3, 0.2))
    after = State(pictures=torch.ones(3, 1, 2, 2), losses=(1.0, 2.0), evidence=fit(0.2, 0.1, float("nan")))
    found = nearer(before, after)
    assert found.pictures[:, 0, 0, 0].tolist() == [0, 1, 0]
    assert found.evidence is not None
    torch.testing.assert_close(found.evidence.miss, torch.tensor([0.1, 0.1, 0.2]))
    assert found.losses == after.losses


@pytest.mark.slow
def test_pictures_come_nearer_than_by_as_many_steps_of_the_search_alone() -> None:
    problem, state = problem_and_state()
    stage = SearchDetermined(search=search())
    begun = search()(problem, state)
    alone, found = search(stage.steps)(problem, begun), stage(problem, begun)
    assert bool((missed(found).mean((1, 2, 3)) < 0.8 * missed(alone).mean((1, 2, 3))).all())
