"""A federation that is trained: against torch's own SGD, with exact bytes, and with what breaks it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from advice.made import CLASSES, federation, linear
from instances import first_of_each
from unveil.advice.training import train
from unveil.core.errors import UsageError
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.none import Identity

NUMBERS = 16 * CLASSES + CLASSES  # of the linear model


@pytest.mark.parametrize(
    ("training", "server_lr"),
    first_of_each([("fedavg:steps=1,lr=0.25", 2.0), ("fedsgd", 0.5), ("fedavg:steps=1,lr=0.5", 1.0)]),
)
def test_one_local_step_each_is_sgd_on_the_pictures_of_all_clients(training: str, server_lr: float) -> None:
    asked = federation(training, server_lr=server_lr)
    found = train(asked, parse("none"), seed=0)
    model = linear(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for number in range(3):
        if number == 2:
            for name, tensor in model.state_dict().items():
                assert torch.allclose(found.weights["end"][name], tensor, atol=1e-6)
        optimiser.zero_grad()
        F.cross_entropy(model(asked.data.train.images), asked.data.train.labels).backward()
        optimiser.step()
    right = (model(asked.data.test.images).argmax(1) == asked.data.test.labels).float().tolist()
    assert found.right == right
    assert found.accuracy[3] == found.final == pytest.approx(sum(right) / 12)


def test_the_federation_itself_is_left_as_it_was() -> None:
    asked = federation(server_lr=0.5)
    before = copy.deepcopy(asked.starts[0].state_dict())
    train(asked, parse("none"), seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in asked.starts[0].state_dict().items())


@pytest.mark.parametrize(("spec", "bits"), [("none", 32), ("fp16", 16)])
def test_bytes_are_those_of_every_client_in_every_round(spec: str, bits: int) -> None:
    assert train(federation(), parse(spec), seed=0).wire_bits == 2 * 3 * NUMBERS * bits


@pytest.mark.slow
def test_a_seed_decides_everything() -> None:
    asked = federation("fedavg:steps=2,lr=0.1,clip=1,noise=0.1", seeds=(0, 1))
    noise = parse("gaussian:relative=1")
    one, again, other = (train(asked, noise, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.weights["end"]["1.weight"], again.weights["end"]["1.weight"])
    assert (one.right, one.accuracy) == (again.right, again.accuracy)
    assert not torch.equal(one.weights["end"]["1.weight"], other.weights["end"]["1.weight"])


@dataclass(frozen=True)
class Recording(Identity):
    """Records whose generator it was called with."""

    seen: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        self.seen.append((generator.initial_seed(), float(torch.rand((), generator=generator))))
        return update


def test_each_client_has_a_generator_of_its_own_that_goes_on() -> None:
    recording = Recording()
    train(federation(), recording, seed=0)
    seeds = [seed for seed, _ in recording.seen]
    assert seeds[0::2] == [seeds[0]] * 3
    assert seeds[1::2] == [seeds[1]] * 3
    assert seeds[0] != seeds[1]
    assert len({draw for _, draw in recording.seen}) == 6


def test_a_client_goes_through_its_own_pictures_once_before_any_comes_again() -> None:
    asked = federation(batch=2)
    images = asked.data.train.images
    drawn = [asked.held(1, number, seed=0).images for number in range(4)]
    for epoch in (torch.cat(drawn[:2]), torch.cat(drawn[2:])):
        places = [next(i for i, image in enumerate(images) if torch.equal(image, one)) for one in epoch]
        assert sorted(places) == [4, 5, 6, 7]
    assert torch.equal(asked.held(1, 2, seed=0).images, drawn[2])


@pytest.mark.parametrize(("rounds", "phases"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (10, [0, 5, 9])])
def test_phases_are_the_first_the_middle_and_the_last_round(rounds: int, phases: list[int]) -> None:
    asked = federation(rounds=rounds)
    assert list(asked.phases.values()) == phases
    assert list(train(asked, parse("none"), seed=0).weights) == list(asked.phases)


def test_a_training_that_diverges_is_one_that_guesses() -> None:
    found = train(federation("fedavg:steps=1,lr=1e30", server_lr=1e30), parse("none"), seed=0)
    assert found.diverged == 1
    assert found.final == pytest.approx(1 / CLASSES)
    assert list(found.weights) == ["start"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 5}, "2 clients with 8 pictures cannot train on 5 each"),
        ({"clients": 3}, "3 clients with 8 pictures cannot train on 4 each"),
        ({"server_lr": 0.0}, "expected server_lr > 0, got 0; 1 is FedAvg"),
    ],
)
def test_a_federation_that_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(federation(), **changes)  # type: ignore[arg-type]
