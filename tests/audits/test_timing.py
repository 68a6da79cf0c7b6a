"""How long an audit takes, reckoned from the first steps of each attack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fakes import Named
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.timing import seconds_of_audit, seconds_of_run
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.reconstruction import Reconstruction
from unveil.core.watch import Progress
from unveil.obfuscations import parse as parse_obfuscation


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


@dataclass
class Clock:
    """A clock that only an attack moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Slow:
    """7 seconds before the first step, 2 for each of 100 steps, 5 after the last."""

    clock: Clock
    taken: int = 0
    name: ClassVar[str] = "slow"

    def __call__(self, model, update, knowledge, *, generator, watch=None):
        images = torch.full((knowledge.num_images, *knowledge.image_shape), 0.5)
        self.clock.now += 5
        for step in range(1, 101):
            self.clock.now += 2
            self.taken += 1
            if watch is not None:
                watch(Progress(step=step, steps=100, loss=1.0, images=lambda: images))
        self.clock.now += 5
        return Reconstruction(images=images, labels=knowledge.labels, losses=[1.0])


def test_a_long_run_is_stopped_and_reckoned_from_its_steps(client: Client) -> None:
    clock = Clock()
    attack = Slow(clock)
    assert seconds_of_run(client, attack, budget=10, clock=clock) == 7 + 2 * 99
    assert attack.taken == 3  # at 7, 9 and 11 seconds
    assert torch.is_grad_enabled()


def test_a_run_within_the_budget_is_measured(client: Client) -> None:
    clock = Clock()
    assert seconds_of_run(client, Slow(clock), budget=1000, clock=clock) == 5 + 2 * 100 + 5


def test_an_audit_takes_all_its_trials_with_their_controls(client: Client) -> None:
    times: Iterator[float] = iter([100.0, 2.0, 1.0])  # the second attack is quick, so its first run is not counted
    audit = Audit(
        clients=[client],
        obfuscations=[parse_obfuscation("none"), parse_obfuscation("sign")],
        attacks=[Named(), parse_attack("rog:steps=1")],
        seeds=[0, 1, 2],
        controls=["labels only"],
    )
    assert seconds_of_audit(audit, lambda client, attack: next(times)) == 2 * 3 * 2 * (100 + 1)
