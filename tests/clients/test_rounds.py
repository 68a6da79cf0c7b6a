"""A client of several rounds: its updates against torch's own steps, and what an attacker is granted."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fakes import Guess, small_client
from seeds import seeded
from unveil.audits.pipeline import play
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.rounds import TrainingOverRounds, moved
from unveil.clients.training import parse as parse_training
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.types import Tensors
from unveil.obfuscations import parse


def client(training: str = "fedsgd", **changes: object) -> Client:
    model, batch = small_client()
    made = Client(model, batch.images, batch.labels, training=parse_training(training))
    return replace(made, **{"rounds": 3, "server_lr": 0.5, **changes})  # type: ignore[arg-type]


def by_hand(of: Client) -> list[dict[str, torch.Tensor]]:
    """The gradients of three steps of gradient descent."""
    model = copy.deepcopy(of.model)
    found = []
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(of.images), of.labels).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= 0.5 * found[-1][name]
    return found


def test_the_updates_are_those_of_gradient_descent() -> None:
    of = client()
    sent = of.update(parse("none"))
    steps = by_hand(of)
    for number, (one, step) in enumerate(zip(sent.rounds, steps, strict=True)):
        for name, tensor in step.items():
            assert torch.allclose(one.tensors[name], tensor, atol=1e-5), (number, name)
    for name, tensor in sent.tensors.items():
        assert torch.allclose(tensor, sum(step[name] for step in steps) / 3, atol=1e-5)
    assert sent.wire_bits == 3 * client(rounds=1).update(parse("none")).wire_bits


def test_an_attacker_simulates_each_round_at_its_own_weights() -> None:
    guess = Guess()
    outcome = play(client(), parse("none"), guess)
    (knowledge,) = guess.granted
    of = client()
    simulated = knowledge.simulate(of.model, Batch(of.images, of.labels))
    for name, tensor in outcome.received.tensors.items():
        value = simulated[name]
        assert torch.allclose(value if isinstance(value, torch.Tensor) else value.dense(), tensor, atol=1e-5)
    assert knowledge.obfuscation is not None
    assert float(knowledge.obfuscation.misfit(outcome.received)(simulated)) < 1e-6
    assert isinstance(knowledge.training, TrainingOverRounds)
    assert (str(knowledge.training), knowledge.training.mode) == ("fedsgd", "eval")
    called = knowledge.training(of.model, Batch(of.images, of.labels), generator=seeded(0))
    assert torch.allclose(called["head.weight"], outcome.received.tensors["head.weight"], atol=1e-5)


def test_the_models_of_the_rounds_are_made_once_and_anew_where_the_model_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[torch.nn.Module] = []

    def copying(model: torch.nn.Module, by: Tensors) -> torch.nn.Module:
        copied.append(model)
        return moved(model, by)

    monkeypatch.setattr("unveil.clients.rounds.moved", copying)
    model, batch = small_client()
    moves = [{name: s * torch.ones_like(p) for name, p in model.named_parameters()} for s in (0.0, 0.01, 0.02)]
    training = TrainingOverRounds(training=parse_training("fedsgd"), moves=moves)
    first = training(model, batch)
    anew = TrainingOverRounds(training=parse_training("fedsgd"), moves=moves)(model, batch)
    again = training(model, batch)
    assert len(copied) == 6  # three of each object, none in the second call
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, anew[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    expected = TrainingOverRounds(training=parse_training("fedsgd"), moves=moves)(model, batch)
    for name, tensor in training(model, batch).items():
        assert torch.equal(tensor, expected[name])
    dead = weakref.ref(model)
    copied.clear()
    del model
    gc.collect()
    assert dead() is None  # what was made of it does not keep it alive


def test_one_round_is_what_it_was() -> None:
    guess = Guess()
    outcome = play(client(rounds=1), parse("topk:density=0.1"), guess)
    assert outcome.received.rounds == ()
    assert str(type(guess.granted[0].training).__name__) == "FedSGD"


def test_what_is_assumed_is_said() -> None:
    said = " ".join(client(error_feedback=True).assumptions)
    assert "The client sent updates of the same pictures in 3 rounds. The attacker has all of them" in said
    assert "adds what was withheld to its next update (error feedback)" in said
    assert client(rounds=1).assumptions == ()
    assert client(error_feedback=True).over_rounds == {"rounds": "3", "error_feedback": "yes", "server_lr": "0.5"}


def test_a_part_of_a_network_is_moved_by_the_names_of_the_network() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    holder = torch.nn.Module()
    holder.model = model
    by = {"0.weight": torch.ones(2, 2)}
    for part, name in ((model, "0.weight"), (holder, "model.0.weight")):
        found = dict(moved(part, by).named_parameters())[name]
        assert torch.equal(found, model[0].weight - 1)
    assert moved(model, {"0.weight": torch.zeros(2, 2)}) is model


@pytest.mark.parametrize(
    ("training", "obfuscation", "says"),
    [
        ("fedsgd", "layers:send=head", "rounds: layers:send=head chooses layers or depends on the client"),
        ("fedsgd", "soteria:pruning_rate=0.4", "chooses layers or depends on the client"),
        ("fedsgd", "dpsgd:clip=1,noise=1", "clips and adds noise, and no guarantee is stated of several rounds"),
        ("fedsgd:mode=train,buffers=sent", "none", "sends buffers, whose mean over several rounds is not attacked"),
    ],
)
def test_what_is_not_modelled_is_refused(training: str, obfuscation: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        play(client(training), parse(obfuscation), Guess())


def test_draws_of_several_rounds_are_not_known() -> None:
    with pytest.raises(UsageError, match="one seed is not that of all; leave rounds, or draws known, out"):
        play(client(), parse("none"), Guess(), threat_model=ThreatModel.parse("draws known"))
