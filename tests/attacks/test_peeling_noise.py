"""Gates and maps are found in updates with noise too, as far as the noise lets them."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.test_peeling import Residual, attacked, batch_of, knowledge_of, made
from torch import Tensor

from seeds import seeded
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.peeling.gates import Space, find_gates
from unveil.attacks.separation.peeling.noise import Distance, distance_of
from unveil.attacks.separation.state import Problem
from unveil.clients.training import parse as training_of
from unveil.core.update import Update
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

PLACES = 4


def gated(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """A gradient of three images with four places each, the slopes behind open gates, and the gates."""
    opened = torch.randn((3, 160), generator=seeded(0)).double()
    gates = (torch.rand((3, PLACES, 160), generator=seeded(1)) < 0.5).double()
    patches = torch.randn((3 * PLACES, 400), generator=seeded(2)).double()
    gradient = (gates * opened[:, None]).flatten(0, 1).T @ patches
    drawn = torch.randn(gradient.shape, generator=seeded(3)).double()
    return gradient + noise * gradient.norm() / drawn.norm() * drawn, opened, gates


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1, 0.4])
def test_gates_are_found_through_noise(noise: float) -> None:
    gradient, opened, gates = gated(noise)
    found = find_gates(gradient, opened, places=PLACES, generator=seeded(4))
    for mine, true, row in zip(found, gates, opened, strict=True):
        assert len(mine) == PLACES
        share = row.square() / row.square().sum()
        wrong = (mine[:, None] != true[None]).double() @ share
        assert sorted(wrong.argmin(0).tolist()) == list(range(PLACES))
        assert float(wrong.min(0).values.max()) <= (0.01 if noise == 0.4 else 1e-4)


def test_the_expected_distance_is_that_of_rows_of_the_space() -> None:
    gradient, opened, gates = gated(0.1)
    rows = (gates * opened[:, None]).flatten(0, 1).T
    space = Space.of(gradient, rows.shape[1])
    off = (rows - space.basis @ (space.basis.T @ rows)).norm(dim=0) / rows.norm(dim=0)
    assert float(off.min()) > 0.01
    assert float((space.expected(rows) / off - 1).abs().max()) < 0.2


def problem_of(training: str, sent: str) -> Problem:
    net, batch, obfuscation = made(Residual), batch_of([0, 3]), obfuscation_of(sent)
    trained = training_of(training)
    update = obfuscation(Update(trained(net, batch)), generator=seeded(0))
    knowing = knowledge_of(batch, trained, obfuscation)
    return Problem(model=net, update=update, knowledge=knowing, labels=batch.labels, generator=seeded(0))


def distance(training: str = "fedsgd", sent: str = "none") -> Distance:
    return distance_of(problem_of(training, sent))


def test_a_gradient_is_no_distance_away_and_one_step_is_a_gradient() -> None:
    assert distance() == Distance(gain=1.0, noise={})


@pytest.mark.slow
def test_noise_of_a_tenth_is_a_distance_of_a_tenth() -> None:
    found = distance(sent="gaussian:relative=0.1")
    assert found.gain == pytest.approx(1, rel=1e-6)
    largest = ("blocks.1.first.weight", "blocks.1.second.weight")
    assert all(found.noise[name] == pytest.approx(0.1, rel=0.1) for name in largest)


@pytest.mark.slow
def test_several_steps_are_near_a_gradient_times_their_learning_rates() -> None:
    one, five = distance("fedavg:steps=1,lr=0.0001"), distance("fedavg:steps=5,lr=0.0001")
    assert one.gain == pytest.approx(0.0001, rel=1e-5)
    assert one.noise == {}
    assert five.gain == pytest.approx(0.0005, rel=0.1)
    assert 0.001 < max(five.noise.values()) < 0.5


@pytest.mark.slow
def test_an_update_that_is_hardly_a_gradient_is_not_searched() -> None:
    with pytest.raises(CannotPeelError, match=r"away from a gradient; gates are searched up to 60%"):
        distance(sent="topk:density=0.01")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "least"),
    [("fp16", 14.0), ("gaussian:relative=0.01", 13.4)],  # 15.5 and 14.9; matched updates give 11.6
)
def test_maps_are_found_through_noise(sent: str, least: float) -> None:
    batch = batch_of([0, 3])
    guess = attacked(made(Residual), batch, sent=sent, steps=30)
    assert "was peeled down to the input of" in guess.notes[0]
    assert "Noise leaves errors of about" in guess.notes[0]
    assert float(psnr(batch.images, guess.images).mean()) > least
