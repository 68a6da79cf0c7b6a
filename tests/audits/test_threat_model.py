"""Threat models: their words, and that what is withheld is really not handed over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seeds import seeded
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.threat_model import ThreatModel, reordered
from unveil.clients.client import Client
from unveil.clients.local_steps import draws_of
from unveil.clients.making import make_client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.factored import dense
from unveil.core.network import Mode
from unveil.core.protocols import LocalTraining
from unveil.obfuscations import parse as parse_obfuscation

MINI = FedAvg(epochs=1, lr=0.1, batch_size=2, shuffle=3)
OBFUSCATION = parse_obfuscation("fp16")


def made(training: LocalTraining) -> Client:
    return make_client(name="a", model="lenet", images="builtin", size=16, batch=4, training=training)


@pytest.mark.parametrize(
    "words",
    [
        "everything known",
        "obfuscation unknown",
        "labels unknown",
        "training unknown",
        "order unknown",
        "labels+order unknown",
        "everything unknown",
        "draws known",
        "labels+order unknown and draws known",
        "everything unknown and draws known",
    ],
)
def test_words_come_back_as_they_were(words: str) -> None:
    assert str(ThreatModel.parse(words)) == words


def test_the_order_of_words_does_not_matter() -> None:
    assert str(ThreatModel.parse(" order + labels  unknown ")) == "labels+order unknown"
    assert ThreatModel.parse("order+training+labels+obfuscation unknown") == ThreatModel.parse("everything unknown")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("labels unknwon", "did you mean 'labels unknown'"),
        ("label unknown", "'label' cannot be withheld; did you mean 'labels'"),
        ("unknown", "threat model 'unknown'"),
        ("", "threat model ''"),
    ],
)
def test_other_words_are_one_clear_sentence(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ThreatModel.parse(words)


def test_what_is_withheld_is_not_handed_over() -> None:
    client = made(FedAvg(steps=5, lr=0.1, mode="train"))
    everything = ThreatModel().knowledge(client, OBFUSCATION)
    assert everything.obfuscation is OBFUSCATION
    assert everything.labels is not None
    assert everything.training is client.training
    assert everything.scale
    assert ThreatModel.parse("obfuscation unknown").knowledge(client, OBFUSCATION).obfuscation is None
    assert ThreatModel.parse("labels unknown").knowledge(client, OBFUSCATION).labels is None
    less = ThreatModel.parse("training unknown").knowledge(client, OBFUSCATION)
    assert (less.training, less.scale) == (FedSGD(mode="train"), False)
    assert "does not know its learning rate and number of steps" in less.assumptions[0]


@pytest.mark.parametrize("shuffle", [None, 3])
def test_an_unknown_order_groups_the_pictures_in_another_way(shuffle: int | None) -> None:
    client = made(replace(MINI, shuffle=shuffle))
    guessed = ThreatModel.parse("order unknown").knowledge(client, OBFUSCATION).training
    assert guessed == replace(MINI, shuffle=0 if shuffle is None else None)
    other = client.training(client.model, client.batch)
    mine = guessed(client.model, Batch(client.batch.images, client.batch.labels))
    assert not all(torch.equal(a, b) for a, b in zip(other.values(), mine.values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("training", [FedSGD(), FedAvg(steps=2, lr=0.1), replace(MINI, batch_size=4)], ids=str)
def test_where_all_pictures_go_into_every_step_there_is_no_order(training: LocalTraining) -> None:
    assert reordered(training, 4) is None
    assert not ThreatModel.parse("order unknown").is_another(made(training))
    assert ThreatModel.parse("labels+order unknown").is_another(made(training))


class Dropping(torch.nn.Module):
    """A Linear layer behind dropout, in train mode or always."""

    def __init__(self, *, always: bool) -> None:
        super().__init__()
        self.layer, self.always = torch.nn.Linear(3 * 16 * 16, 14), always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.nn.functional.dropout(x.flatten(1) + 1, 0.5, self.training or self.always))


@pytest.mark.parametrize(
    ("always", "mode", "drops"), [(True, "eval", True), (False, "train", True), (False, "eval", False)]
)
def test_what_the_network_drew_by_chance_is_known_only_where_it_is_granted(
    always: bool, mode: Mode, drops: bool
) -> None:
    client = replace(made(FedSGD(mode=mode)), model=Dropping(always=always))
    chance = seeded(4)
    sent = client.training(client.model, client.batch, generator=chance)
    matches = {}
    for words in ("everything known", "draws known"):
        knowledge = ThreatModel.parse(words).knowledge(client, OBFUSCATION, draws=draws_of(chance))
        simulated = knowledge.simulate(client.model, client.batch)
        matches[words] = torch.allclose(dense(simulated["layer.weight"]), sent["layer.weight"], atol=1e-6)
        sentences = [text for text in knowledge.assumptions if "dropout masks" in text]
        assert len(sentences) == drops
        assert all(("does not know" in text) is (words == "everything known") for text in sentences)
    assert matches == {"everything known": not drops, "draws known": True}
    assert ThreatModel.parse("draws known").is_another(client) is drops


def test_an_audit_runs_every_threat_model_but_those_that_change_nothing() -> None:
    granted = [ThreatModel(), ThreatModel.parse("labels unknown"), ThreatModel.parse("order unknown")]
    small, plain = made(MINI), replace(made(FedSGD()), name="b")
    audit = Audit(clients=[small, plain], obfuscations=[], attacks=[parse_attack("rog")], threat_models=granted)
    run = [(client.name, str(threat_model)) for client, threat_model, *_ in audit.trials()]
    assert run == [
        ("a", "everything known"),
        ("a", "labels unknown"),
        ("a", "order unknown"),
        ("b", "everything known"),
        ("b", "labels unknown"),
    ]
    assert len(audit) == 5
    with pytest.raises(UsageError, match="order unknown: no client trains in several mini-batches"):
        replace(audit, clients=[plain])
    with pytest.raises(UsageError, match="draws known: no client's network draws anything by chance"):
        replace(audit, threat_models=[ThreatModel.parse("draws known")])
    with pytest.raises(UsageError, match="everything known is given twice in threat_models"):
        replace(audit, threat_models=[ThreatModel(), ThreatModel()])
