"""Cohorts: the update is the mean of several clients' updates, weighted by their numbers of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fakes import Guess, small_client
from instances import first_of_each
from unveil.audits.pipeline import play
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import run_trial
from unveil.clients.client import Client
from unveil.clients.cohort import CohortTraining, of_cohort
from unveil.clients.making import make_client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core import gradient
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import Factored, dense
from unveil.core.protocols import LocalTraining
from unveil.core.types import Tensors
from unveil.obfuscations import parse

TRAININGS = [
    FedSGD(),
    FedSGD(reduction="sum"),
    FedAvg(steps=3, lr=0.1),
    FedAvg(epochs=2, batch_size=2, lr=0.1, momentum=0.9, shuffle=0),
]


def by_hand(training: LocalTraining, sizes: Sequence[int]) -> tuple[Tensors, Batch]:
    """The server's average: each client's own update, times its share of all pictures."""
    model, batch = small_client(n=sum(sizes))
    total: dict[str, Tensor] = {}
    start = 0
    for size in sizes:
        own = training(model, Batch(batch.images[start : start + size], batch.labels[start : start + size]))
        for name, tensor in own.items():
            total[name] = total.get(name, torch.zeros_like(tensor)) + tensor * size / sum(sizes)
        start += size
    return total, batch


@pytest.mark.parametrize("training", first_of_each(TRAININGS, type), ids=str)
@pytest.mark.parametrize("sizes", first_of_each([[3, 2], [2, 2], [1, 1, 1, 1]]), ids=str)
def test_the_update_is_the_mean_weighted_by_numbers_of_pictures(training: LocalTraining, sizes: Sequence[int]) -> None:
    expected, batch = by_hand(training, sizes)
    sent = of_cohort(training, len(sizes))(small_client(n=sum(sizes))[0], batch)
    for name, tensor in expected.items():
        torch.testing.assert_close(sent[name], tensor, rtol=1e-4, atol=1e-7)


def test_clients_of_several_steps_are_no_joint_client() -> None:
    training = FedAvg(steps=3, lr=1.0)
    expected, batch = by_hand(training, (2, 2))
    joint = training(small_client()[0], batch)
    assert float((joint["head.weight"] - expected["head.weight"]).norm()) > 1e-3 * float(joint["head.weight"].norm())


@pytest.mark.parametrize("worth_it", [1, 1 << 40])
def test_an_attacker_simulates_each_client(worth_it: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "WORTH_IT", worth_it)
    training, (model, batch) = of_cohort(FedAvg(steps=2, lr=0.1), 2), small_client()
    images = batch.images.clone().requires_grad_()
    simulated = training.simulate(model, Batch(images, batch.labels))
    assert any(isinstance(value, Factored) for value in simulated.values()) == (worth_it == 1)
    for name, tensor in training(model, batch).items():
        torch.testing.assert_close(dense(simulated[name]).detach(), tensor, rtol=1e-4, atol=1e-7)
    (slope,) = torch.autograd.grad(dense(simulated["features.0.weight"]).square().sum(), images)
    assert bool((slope.flatten(1).norm(dim=1) > 0).all())


def test_facts_of_the_training_are_those_of_each_client() -> None:
    training = FedAvg(epochs=3, batch_size=2, lr=0.1, mode="train", label_smoothing=0.1)
    cohort = of_cohort(training, 4)
    assert isinstance(cohort, CohortTraining)
    assert (str(cohort), cohort.mode, cohort.local_loss.label_smoothing) == (str(training), "train", 0.1)
    assert cohort.reordered(8) is None  # each client has two pictures, and takes both in every step
    other = cohort.reordered(12)
    assert other is not None
    assert other.training == training.reordered(3)
    assert cohort.shortened(12).training == training.shortened(3)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (FedSGD(clip=1, noise=0.5, expected=4), "clips each picture's gradient, and no guarantee is stated of a mean"),
        (FedSGD(mode="train", buffers="sent"), "sends buffers, which a mean over clients does not have here; leave"),
    ],
)
def test_a_training_whose_mean_is_not_computed_is_told_in_a_sentence(training: LocalTraining, message: str) -> None:
    assert of_cohort(training, 1) is training
    with pytest.raises(UsageError, match=message):
        of_cohort(training, 2)


def cohort_of(clients: int, training: LocalTraining | None = None) -> Client:
    return make_client(
        name="a", model="lenet", images="builtin", size=16, batch=2, training=training or FedSGD(), cohort=clients
    )


def test_a_cohort_has_a_batch_of_other_pictures_for_each_client() -> None:
    one, three = cohort_of(1), cohort_of(3)
    assert (len(one.images), len(three.images), three.cohort) == (2, 6, 3)
    assert torch.equal(three.images[:2], one.images)
    assert len(three.images.flatten(1).unique(dim=0)) == 6
    assert all(torch.equal(*pair) for pair in zip(one.model.parameters(), three.model.parameters(), strict=True))
    assert three.assumptions[0].startswith("The server sees only the mean of the updates of 3 clients")
    assert not any("mean" in sentence for sentence in one.assumptions)


@pytest.mark.slow
def test_every_picture_of_a_cohort_is_attacked_and_scored() -> None:
    attack = Guess()
    trial = run_trial(cohort_of(3, FedAvg(steps=2, lr=0.01)), parse("none"), attack)
    (granted,) = attack.granted
    assert (granted.num_images, trial.settings["cohort"], trial.settings["training"]) == (
        6,
        "3",
        "fedavg:steps=2,lr=0.01",
    )
    assert len(trial.outcomes["attack"].scores["psnr"]) == 6
    assert any("mean of the updates of 3 clients" in said for said in trial.outcomes["attack"].assumptions)
    assert "cohort" not in run_trial(cohort_of(1), parse("none"), Guess()).settings


def test_one_seed_is_not_that_of_every_clients_dropout() -> None:
    model, batch = small_client()
    model.hidden = torch.nn.Sequential(model.hidden, torch.nn.Dropout())
    training = of_cohort(FedAvg(steps=1, lr=0.1, mode="train"), 2)
    client = Client(model, batch.images, batch.labels, training=training, cohort=2)
    with pytest.raises(
        UsageError, match="networks of a cohort's clients each draw by chance, and one seed is not that"
    ):
        play(client, parse("none"), Guess(), threat_model=ThreatModel.parse("draws known"))
