"""Which layers are sent: what the words mean for a network, what travels, and what an attacker is handed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from fakes import Guess, small_client, small_update
from seeds import seeded
from unveil.attacks import parse as attack_of
from unveil.audits.pipeline import play
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.binding import for_client
from unveil.core.errors import UsageError
from unveil.core.protocols import HasEntryModels
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.privacy.mechanisms import mechanisms

BODY = {"features.0.weight", "features.0.bias"}
LAST = {"head.weight", "head.bias"}
HEAD = {"hidden.weight", "hidden.bias"} | LAST


def send(spec: str, model: nn.Module | None = None, update: Update | None = None) -> Update:
    own, batch = small_client()
    model = own if model is None else model
    update = update or Update(FedSGD()(model, batch))
    return for_client(parse(spec), model, batch, FedSGD())(update, generator=seeded(0))


def sent_by(spec: str, model: nn.Module | None = None) -> set[str]:
    received = send(spec, model)
    return {name for name in received.tensors if received.count_sent(name)}


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        ("all", BODY | HEAD),
        ("head", HEAD),
        ("no-head", BODY),
        ("last", LAST),
        ("no-last", (BODY | HEAD) - LAST),
        ("bias", {"features.0.bias", "hidden.bias", "head.bias"}),
        ("no-bias", {"features.0.weight", "hidden.weight", "head.weight"}),
        ("features", BODY),
        ("hidden/features.0.bias", {"hidden.weight", "hidden.bias", "features.0.bias"}),
        ("no-h*", BODY),
        ("?ead.weight", {"head.weight"}),
    ],
)
def test_the_words_name_parameters_of_the_network(send: str, expected: set[str]) -> None:
    assert sent_by(f"layers:send={send}") == expected


def all_convolutions(*, last: int = 10) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


class Backwards(nn.Module):
    """Declares first the layer that runs last, under another name; a wider layer feeds half of its outputs to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 10)
        self.wide = nn.Linear(192, 24)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.stem(self.wide(x.flatten(1)).relu()[:, :12])
        return scores


def test_the_head_is_found_by_running_the_network_and_not_by_names() -> None:
    assert sent_by("layers:send=head", all_convolutions()) == {"2.weight", "2.bias"}
    assert sent_by("layers:send=head", Backwards()) == {"stem.weight", "stem.bias"}
    assert sent_by("layers:send=no-last", Backwards()) == {"wide.weight", "wide.bias"}


def test_a_client_has_another_choice_for_another_network_and_none_for_other_pictures() -> None:
    model, batch = small_client()
    other = Batch(torch.zeros_like(batch.images), batch.labels)
    received = [
        for_client(parse("layers:send=head"), model, own, FedSGD())(small_update(), generator=seeded(0))
        for own in (batch, other)
    ]
    assert all(torch.equal(received[0].tensors[name], tensor) for name, tensor in received[1].tensors.items())


def test_what_is_kept_back_costs_nothing_and_what_is_sent_is_as_it_was() -> None:
    update, received = small_update(), send("layers:send=last", update=small_update())
    assert received.wire_bits == 32 * (32 * 10 + 10)
    assert received.in_full.wire_bits == update.wire_bits
    for name, tensor in update.tensors.items():
        expected = tensor if name in LAST else torch.zeros_like(tensor)
        assert torch.equal(received.tensors[name], expected)
        assert received.count_sent(name) == (tensor.numel() if name in LAST else 0)


@pytest.mark.parametrize(
    ("behind", "bits"),
    [
        ("fp16", 16 * 330),
        ("qsgd:levels=16,norm=max", 5 * 330 + 2 * 32),
        ("sign", 330),
        ("sign:scale=true", 330 + 2 * 32),
    ],
)
def test_stages_behind_code_only_what_is_sent(behind: str, bits: int) -> None:
    assert send(f"layers:send=last+{behind}").wire_bits == bits


def test_a_share_and_a_norm_of_the_whole_update_are_those_of_what_is_sent() -> None:
    received = send("layers:send=last+topk:density=0.1,scope=update")
    assert sum(received.count_sent(name) for name in received.tensors) == 33
    clipped = send("layers:send=last+clip:norm=0.01").tensors
    assert float(torch.cat([clipped[name].flatten() for name in LAST]).norm()) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("behind", ["", "+qsgd:levels=64,norm=max", "+gaussian:relative=0.1", "+powersgd:rank=2"])
def test_what_is_kept_back_says_nothing(behind: str) -> None:
    obfuscation = parse(f"layers:send=no-head{behind}")
    received, truth = send(str(obfuscation)), small_update().tensors
    assert not any(bool(received.tensors[name].any()) for name in HEAD)
    misfit = obfuscation.misfit(received)
    other = {name: tensor + 3 if name in HEAD else tensor for name, tensor in truth.items()}
    assert float(misfit(other)) == float(misfit(truth))
    wrong = {name: tensor + 3 if name in BODY else tensor for name, tensor in truth.items()}
    assert float(misfit(wrong)) > float(misfit(truth)) + 0.5
    assert isinstance(obfuscation, HasEntryModels)
    models = obfuscation.entry_models(received)
    _, weight = models["head.weight"](truth["head.weight"], (slice(None), slice(None)))
    assert not bool(weight.any())


def client_of(**settings: object) -> Client:
    model, batch = small_client()
    return dataclasses.replace(Client(model, batch.images, batch.labels), **settings)  # type: ignore[arg-type]


def test_an_attack_is_handed_what_arrived_and_is_told_what_did_not() -> None:
    attack = Guess()
    outcome = play(client_of(), parse("layers:send=last+fp16"), attack)
    assert set(outcome.received.tensors) == LAST
    assert (outcome.received.wire_bits, outcome.raw_bits) == (16 * 330, small_update().wire_bits)
    (granted,) = attack.granted
    assert str(granted.obfuscation) == "fp16"
    assert set(granted.withheld) == set(small_update().tensors) - LAST
    sentence = "keeps features.0.weight, features.0.bias, hidden.weight, hidden.bias back, whatever the values are"
    assert any(sentence in assumption for assumption in granted.assumptions)
    plain = play(client_of(), parse("fp16"), attack)
    assert not any("keeps" in assumption for assumption in plain.knowledge.assumptions)


def test_an_attacker_who_is_not_granted_the_obfuscation_still_sees_what_did_not_arrive() -> None:
    attack = Guess()
    play(client_of(), parse("layers:send=head+sign"), attack, threat_model=ThreatModel.parse("obfuscation unknown"))
    (granted,) = attack.granted
    assert (str(granted.obfuscation), granted.fingerprinted, set(granted.withheld)) == ("sign", True, BODY)


@pytest.mark.parametrize(
    "behind", ["clip:norm=0.01", "percentile:percent=80+fp16", "topk:density=0.5,scope=update+sign"]
)
def test_an_attackers_candidate_is_judged_by_the_layers_that_arrived(behind: str) -> None:
    """The norm of a clipped update, and the entries among which some are chosen, are those of what is sent."""
    client, attack = client_of(), Guess()
    outcome = play(client, parse(f"layers:send=last+{behind}"), attack)
    granted, arrived = outcome.knowledge, outcome.received
    truth = granted.simulate(client.model, client.batch)
    assert set(truth) == LAST
    assert granted.obfuscation is not None
    misfit = granted.obfuscation.misfit(arrived)
    other = granted.simulate(client.model, small_client(seed=1)[1])
    assert float(misfit(truth)) < 0.5 * float(misfit(other))


@pytest.mark.parametrize(
    ("send", "note"),
    [
        ("head", "The batch was separated"),
        (
            "no-head",
            "The update does not hold the network's last Linear layer (head.weight): the batch was not separated",
        ),
    ],
)
@pytest.mark.slow
def test_the_own_attack_separates_by_the_head_and_matches_without_it(send: str, note: str) -> None:
    outcome = play(client_of(), parse(f"layers:send={send}"), attack_of("unveil:steps=2"))
    assert any(note in own for own in outcome.attack.notes)
    assert any("matched updates instead" in own for own in outcome.attack.notes) == (send == "no-head")


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["unveil:steps=2", "rog:steps=2", "inverting_gradients:steps=2"])
def test_labels_are_guessed_where_the_last_layer_is_kept_back(attack: str) -> None:
    unknown = ThreatModel.parse("labels unknown")
    outcome = play(client_of(), parse("layers:send=no-last"), attack_of(attack), threat_model=unknown)
    assert outcome.attack.labels.tolist() == [0, 1, 2, 3]
    assert outcome.attack.notes[0] == (
        "Nothing arrived of the last layer (head.weight, head.bias), so the labels are guessed."
    )


def test_labels_are_inferred_from_the_last_layer_alone() -> None:
    client = client_of()
    client = dataclasses.replace(client, images=client.images[:1], labels=client.labels[:1])
    unknown = ThreatModel.parse("labels unknown")
    outcome = play(client, parse("layers:send=last"), attack_of("rog:steps=1"), threat_model=unknown)
    assert outcome.attack.labels.tolist() == client.labels.tolist()


def test_buffers_are_no_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    _, batch = small_client()
    client = Client(model, batch.images, batch.labels, training=FedSGD(mode="train", buffers="obfuscated"))
    whole, received = client.update(), client.update(parse("layers:send=head"))
    assert whole.buffers is not None
    assert received.buffers is not None
    statistics = received.buffers.statistics.tensors
    assert set(statistics) == {"1.running_mean", "1.running_var"}
    assert all(torch.equal(tensor, whole.buffers.statistics.tensors[name]) for name, tensor in statistics.items())


@pytest.mark.parametrize(
    ("training", "spec"),
    [(FedSGD(), "dpsgd:clip=1,noise=0.5"), (FedSGD(clip=1, noise=0.5, expected=4), "none")],
)
def test_a_guarantee_for_the_whole_update_is_one_for_a_part_of_it(training: FedSGD, spec: str) -> None:
    whole = mechanisms(training, parse(spec), 4)
    assert whole[0].reason == ""
    assert mechanisms(training, parse(f"layers:send=no-head+{spec}"), 4) == whole


def frozen() -> nn.Module:
    model, _ = small_client()
    model.head.requires_grad_(False)
    return model


def without_biases() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False))


@pytest.mark.parametrize(
    ("model", "send", "message"),
    [
        (None, "no-haed", "the client trains no parameter 'haed'; did you mean 'head'?"),
        (None, "conv9", "the client trains no parameter 'conv9'; known are features, head, hidden"),
        (without_biases(), "bias", "the client trains no parameter 'bias'; known are 1"),
        (without_biases(), "no-head", "send=no-head sends nothing of this network; send another part of it"),
        (frozen(), "head", "the weight of the network's last layer is frozen or computed from others; name its param"),
        (
            nn.Sequential(all_convolutions(last=20), nn.Unflatten(1, (10, 2)), nn.AvgPool1d(2), nn.Flatten()),
            "head",
            "the last Linear layer or convolution that the network runs does not give the class scores",
        ),
    ],
)
def test_a_part_that_a_network_does_not_have_is_told_in_a_sentence(
    model: nn.Module | None, send: str, message: str
) -> None:
    own, batch = small_client()
    with pytest.raises(UsageError) as error:
        for_client(parse(f"layers:send={send}"), own if model is None else model, batch, FedSGD())
    assert message in str(error.value)


@pytest.mark.parametrize("send", ["", "no-", "head/", "no-all"])
def test_a_setting_that_sends_nothing_is_told_in_a_sentence(send: str) -> None:
    with pytest.raises(UsageError, match=r"Layers: expected send to be all, head, last, bias or names joined by /"):
        parse(f"layers:send={send}")


def test_it_stands_first_and_needs_a_client() -> None:
    for spec in (
        "fp16+layers:send=head",
        "layers:send=no-head+layers:send=bias",
        "layers:send=all+sign+layers:send=head",
    ):
        with pytest.raises(UsageError, match=r"layers:send=\w+ stands behind another stage; put it first, and the oth"):
            parse(spec)
    assert str(parse("none+layers:send=head")) == "none+layers:send=head"
    with pytest.raises(
        UsageError, match=r"depends on the client's network; get the update from `client.update\(obfusc"
    ):
        parse("layers:send=head")(small_update(), generator=seeded(0))
