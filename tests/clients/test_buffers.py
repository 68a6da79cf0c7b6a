"""Buffers in the update: the changes are torch's own, on one step and several, and nothing else of the update moves."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fakes import small_client
from seeds import seeded, shifted
from unveil.attacks import parse as parse_attack
from unveil.audits.pipeline import play
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.training import FedAvg, FedSGD, parse
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import LocalTraining
from unveil.core.update import BufferChanges, Update
from unveil.obfuscations import parse as parse_obfuscation

SENT = FedSGD(mode="train", buffers="sent")


class NormNet(nn.Module):
    """A convolution, the given normalisation of its four channels, and a Linear layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), norm, nn.Linear(4 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def norm_client(norm: nn.Module | None = None, *, n: int = 4, training: LocalTraining = SENT) -> Client:
    """A client whose network has been used before, so that its statistics are no zeros and ones."""
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = NormNet(norm or nn.BatchNorm2d(4))
        model.train()(torch.rand(3, 3, 8, 8))
        return Client(model.eval(), torch.rand(n, 3, 8, 8), torch.randperm(10)[:n], training=training)


def changes_by_torch(client: Client, parts: list[Tensor], lr: float = 0.0) -> dict[str, Tensor]:
    """What torch's own SGD does to the buffers, one step for each part of the batch."""
    model = copy.deepcopy(client.model).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for rows in parts:
        optimiser.zero_grad()
        F.cross_entropy(model(client.images[rows]), client.labels[rows]).backward()
        optimiser.step()
    return {name: buffer - before[name] for name, buffer in model.named_buffers()}


def sent_by(client: Client) -> dict[str, Tensor]:
    changes = client.update().buffers
    assert changes is not None
    return {**changes.statistics.tensors, **changes.counters}


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, momentum=0.3, affine=False),
        nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
    ids=["usual", "cumulative", "not affine", "one without statistics"],
)
@pytest.mark.parametrize("n", [1, 4])
def test_one_step_sends_the_changes_that_torch_makes(norm: nn.Module, n: int) -> None:
    client = norm_client(copy.deepcopy(norm), n=n)
    expected = changes_by_torch(client, [torch.arange(n)])
    sent = sent_by(client)
    assert list(sent) == list(expected) != []
    for name, change in expected.items():
        torch.testing.assert_close(sent[name], change, rtol=1e-5, atol=1e-6)
        assert sent[name].dtype == change.dtype


def test_one_step_gives_the_batchs_own_statistics_exactly() -> None:
    client = norm_client()
    with torch.no_grad():
        maps = client.model.conv(client.images).double()
    sent, old = sent_by(client), dict(client.model.named_buffers())
    for name, statistic in (("mean", maps.mean((0, 2, 3))), ("var", maps.var((0, 2, 3)))):
        change = sent[f"norm.running_{name}"].double()
        torch.testing.assert_close(change / 0.1 + old[f"norm.running_{name}"].double(), statistic, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_steps_send_what_all_of_them_did(momentum: float | None) -> None:
    training = FedAvg(epochs=2, batch_size=2, lr=0.1, mode="train", buffers="sent")
    client = norm_client(nn.BatchNorm2d(4, momentum=momentum), n=5, training=training)
    # A last mini-batch of one picture is used as well.
    expected = changes_by_torch(client, [*torch.arange(5).split(2)] * 2, lr=0.1)
    sent = sent_by(client)
    assert int(sent["norm.num_batches_tracked"]) == 6
    for name, change in expected.items():
        torch.testing.assert_close(sent[name], change, rtol=1e-4, atol=1e-6)


def test_the_parameters_are_the_same_whatever_becomes_of_the_buffers() -> None:
    sent = norm_client()
    kept = replace(sent, training=FedSGD(mode="train"))
    noised = replace(sent, training=FedSGD(mode="train", buffers="obfuscated"))
    obfuscation = parse_obfuscation("gaussian:relative=1")
    assert kept.update(obfuscation).buffers is None
    for client in (sent, noised):
        for name, tensor in client.update(obfuscation).tensors.items():
            assert torch.equal(tensor, kept.update(obfuscation).tensors[name])


def test_the_model_keeps_its_buffers() -> None:
    client = norm_client()
    before = copy.deepcopy(client.model.state_dict())
    client.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in client.model.state_dict().items())


def test_obfuscated_buffers_are_an_update_of_their_own_and_counters_are_exact() -> None:
    client = norm_client(training=FedSGD(mode="train", buffers="obfuscated"))
    plain = replace(client, training=SENT).update().buffers
    received = client.update(parse_obfuscation("fp16")).buffers
    assert plain is not None
    assert received is not None
    for name, tensor in plain.statistics.tensors.items():
        assert torch.equal(received.statistics.tensors[name], tensor.half().float())
        assert not torch.equal(received.statistics.tensors[name], tensor)
    assert received.counters == plain.counters == {"norm.num_batches_tracked": torch.tensor(1)}


def test_sent_buffers_pass_an_obfuscation_as_they_are() -> None:
    client = norm_client()
    for spec in ("fp16", "powersgd:rank=1", "topk:density=0.1+qsgd:levels=4"):
        received, plain = client.update(parse_obfuscation(spec)).buffers, client.update().buffers
        assert received is not None
        assert plain is not None
        assert all(torch.equal(received.statistics.tensors[n], t) for n, t in plain.statistics.tensors.items())


@pytest.mark.parametrize(("buffers", "bits"), [("kept", 0), ("sent", 2 * 4 * 32 + 64), ("obfuscated", 2 * 4 * 16 + 64)])
def test_buffers_count_on_the_wire(buffers: str, bits: int) -> None:
    client = norm_client(training=parse(f"fedsgd:mode=train,buffers={buffers}"))
    parameters = sum(parameter.numel() for parameter in client.model.parameters())
    received = client.update(parse_obfuscation("fp16"))
    assert received.wire_bits == 16 * parameters + bits
    assert sum(array.bits for array in received.payload) == received.wire_bits
    assert received.in_full.wire_bits == 32 * parameters + (2 * 4 * 32 + 64 if bits else 0)
    factors = replace(received, encoded=Update({"factor": torch.zeros(3)}))
    assert factors.wire_bits == sum(array.bits for array in factors.payload) == 3 * 32 + bits


def test_only_what_a_state_dict_has_is_sent() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1), persistent=False)
            self.register_buffer("total", torch.zeros(1))
            self.register_buffer("ran", torch.tensor(False))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.copy_(x.detach().mean())
            self.total.copy_(x.detach().mean())
            self.ran.fill_(True)
            return x

    client = norm_client(Remembers(), training=FedSGD(buffers="sent"))
    client.model.norm.ran.fill_(False)
    assert list(sent_by(client)) == ["norm.total"]


@pytest.mark.parametrize("training", [SENT, FedAvg(steps=2, lr=0.1, buffers="obfuscated")], ids=str)
def test_a_network_without_changing_buffers_is_refused(training: LocalTraining) -> None:
    model, batch = small_client()
    client = Client(model, batch.images, batch.labels, training=training)
    with pytest.raises(UsageError, match="changes no buffer of this network; leave buffers out, or use mode=train"):
        client.update()


def test_eval_mode_changes_no_statistics_and_is_refused() -> None:
    with pytest.raises(UsageError, match="buffers=sent has no effect"):
        norm_client(training=FedSGD(buffers="sent")).update()


def test_a_single_value_a_channel_is_one_clear_sentence() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UsageError, match="Expected more than 1 value per channel"):
        SENT(model, Batch(torch.rand(1, 3, 8, 8, generator=seeded(0)), torch.tensor([3])))


def test_momentum_of_zero_leaves_only_the_counter() -> None:
    client = norm_client(nn.BatchNorm2d(4, momentum=0.0), training=FedSGD(mode="train", buffers="obfuscated"))
    received = client.update(parse_obfuscation("qsgd:levels=4")).buffers
    assert received is not None
    assert not received.statistics.tensors
    assert received.counters == {"norm.num_batches_tracked": torch.tensor(1)}


def test_statistics_that_overflow_are_named() -> None:
    changes = BufferChanges(statistics=Update({"norm.running_var": torch.tensor([torch.inf])}))
    with pytest.raises(UsageError, match=r"'norm.running_var' holds NaN or infinite values"):
        Update({"weight": torch.ones(2)}, buffers=changes).check()


def test_what_the_attacker_receives_is_printed() -> None:
    none = parse_obfuscation("none")
    for buffers, sentence in (("sent", "nothing obfuscates them."), ("obfuscated", "obfuscated as an update of their")):
        client = norm_client(training=parse(f"fedavg:steps=2,lr=0.1,mode=train,buffers={buffers}"))
        for words in ("everything known", "training unknown"):
            knowledge = ThreatModel.parse(words).knowledge(client, none)
            assert any("running statistics" in line and sentence in line for line in knowledge.assumptions), words
    kept = ThreatModel().knowledge(norm_client(training=FedSGD(mode="train")), none)
    assert not any("running statistics" in line for line in kept.assumptions)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["inverting_gradients:steps=3", "rog:steps=2", "dlg:steps=2", "unveil:steps=4"])
def test_attacks_that_match_updates_do_not_match_buffers(spec: str) -> None:
    obfuscation = parse_obfuscation("none")
    clients = [norm_client(training=t) for t in (FedSGD(mode="train"), SENT)]
    kept, sent = [play(client, obfuscation, parse_attack(spec)) for client in clients]
    assert torch.equal(kept.attack.images, sent.attack.images)
    assert sent.raw_bits == kept.raw_bits + 2 * 4 * 32 + 64


def test_specs_and_their_errors() -> None:
    assert str(parse("fedsgd:mode=train,buffers=sent")) == "fedsgd:mode=train,buffers=sent"
    with pytest.raises(UsageError, match="buffers=all does not fit"):
        parse("fedsgd:buffers=all")
