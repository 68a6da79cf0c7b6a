"""A recorded client: what its manifest must say, its network, and its weights."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audits.recorded.recordings import FACTS, MODEL, made, recorded, save_truth, simulated
from unveil.audits.recorded.making import recorded_client
from unveil.captures.facts import Fact
from unveil.captures.manifest import declared
from unveil.captures.reading import read_recording
from unveil.captures.writing import write_recording
from unveil.clients.making import make_client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.errors import UsageError
from unveil.obfuscations import parse


def test_a_recorded_client_has_the_clients_update_weights_and_facts(tmp_path: Path) -> None:
    sender = simulated()
    client = made(recorded(tmp_path, sender, client="clinic", round=3, labels=sender.labels.tolist()))
    assert client.name == "clinic, round 3"
    assert client.shape == (4, 3, 16, 16)
    assert (client.training, client.obfuscation, str(client.threat_model)) == (
        "fedsgd",
        "unknown",
        "obfuscation unknown",
    )
    assert client.knowledge.labels is not None
    assert torch.equal(client.knowledge.labels, sender.labels)
    for name, tensor in sender.update().tensors.items():
        assert torch.equal(client.update.tensors[name], tensor)
    for name, tensor in sender.model.state_dict().items():
        assert torch.equal(client.model.state_dict()[name], tensor)


def test_what_is_not_said_is_unknown_to_the_attacker(tmp_path: Path) -> None:
    path = recorded(tmp_path, simulated(FedAvg(steps=3, lr=0.05)))
    client = made(path)
    assert str(client.threat_model) == "obfuscation+labels+training unknown"
    assert client.training == "unknown"
    assert client.name == "update"
    assert any("learning rate and number of steps" in note for note in client.notes)
    assert any("does not say the normalisation" in note for note in client.notes)


def test_facts_that_are_estimates_are_named(tmp_path: Path) -> None:
    recording = read_recording(recorded(tmp_path, simulated()))
    assert not any("Estimates" in note for note in recorded_client(recording, MODEL).notes)
    estimate = Fact(value=4, source="estimated")
    recording = replace(recording, manifest=replace(recording.manifest, examples=estimate, batch_size=estimate))
    assert (
        "Estimates of the recording, taken as they are: batch_size, examples."
        in recorded_client(recording, MODEL).notes
    )


@pytest.mark.slow
def test_a_state_dict_with_running_statistics_is_the_clients_update(tmp_path: Path) -> None:
    training = FedAvg(steps=1, lr=0.05, mode="train", buffers="sent")
    sender = make_client(name="a", model="resnet9", images="builtin", size=32, batch=4, classes=10, training=training)
    update = sender.update()
    before = {name: tensor.clone() for name, tensor in sender.model.state_dict().items()}
    assert update.buffers is not None
    statistics, counters = update.buffers.statistics.tensors, update.buffers.counters
    gains = {**{name: -tensor for name, tensor in update.tensors.items()}, **statistics, **counters}
    after = {name: tensor + gains[name] if name in gains else tensor for name, tensor in before.items()}
    facts = {"image_shape": [3, 32, 32], "examples": 4, "learning_rate": 0.05, "steps": 1, "optimiser": "sgd"}
    write_recording(tmp_path / "u.safetensors", manifest=declared(**facts), before=before, client=after)
    client = recorded_client(read_recording(tmp_path / "u.safetensors"), "resnet9")
    assert client.training == str(training)
    assert client.update.buffers is not None
    assert client.update.buffers.counters.keys() == counters.keys()
    for name, tensor in statistics.items():
        close = 2**-23 * float(after[name].abs().max())
        torch.testing.assert_close(client.update.buffers.statistics.tensors[name], tensor, rtol=0, atol=close)
    for name, tensor in update.tensors.items():
        close = 2**-23 * float(after[name].abs().max() + before[name].abs().max())
        torch.testing.assert_close(client.update.tensors[name], tensor, rtol=0, atol=close)


def test_classes_are_told_from_the_last_tensor(tmp_path: Path) -> None:
    sender = simulated()
    write_recording(
        tmp_path / "update.safetensors",
        manifest=declared(image_shape=[3, 16, 16], examples=4),
        before=dict(sender.model.state_dict()),
        gradient=sender.update().tensors,
    )
    client = made(tmp_path / "update.safetensors")
    assert client.knowledge.classes == 10
    assert "The recording does not say the number of classes: its last tensor has 10 rows." in client.notes


def test_weights_come_from_the_recording_a_file_or_the_factory(tmp_path: Path) -> None:
    sender = simulated()
    path = tmp_path / "update.safetensors"
    write_recording(path, manifest=declared(**FACTS), gradient=sender.update().tensors)
    assert any("those that the factory gives are used" in note for note in made(path).notes)
    save_file(dict(sender.model.state_dict()), tmp_path / "weights.safetensors")
    client = made(path, weights=str(tmp_path / "weights.safetensors"))
    assert client.weights.startswith("weights.safetensors (SHA-256 ")
    assert torch.equal(client.model.state_dict()["head.bias"], sender.model.state_dict()["head.bias"])
    recorded(tmp_path, sender)
    with pytest.raises(UsageError, match="it has the weights before local training; leave --weights out"):
        made(path, weights=str(tmp_path / "weights.safetensors"))


def test_a_sparsified_update_has_entries_that_were_not_sent(tmp_path: Path) -> None:
    topk = parse("topk:density=0.1")
    client = made(recorded(tmp_path, simulated(), topk, obfuscation=str(topk)))
    assert client.obfuscation == "topk:density=0.1"
    assert client.update.wire_bits == pytest.approx(simulated().update(topk).wire_bits, rel=0.01)
    assert made(recorded(tmp_path, simulated(), parse("fp16"), obfuscation="fp16")).update.coding.sparse is False
    inside = parse("svt:fraction=0.5,noise_var=2,gamma=0.01+fp16")
    assert made(recorded(tmp_path, simulated(), inside, obfuscation=str(inside))).update.coding.sparse


def test_one_step_of_adam_is_the_signs_of_the_gradient(tmp_path: Path) -> None:
    sender = simulated()
    after = copy.deepcopy(sender.model)
    optimiser = torch.optim.Adam(after.parameters(), lr=0.001)
    torch.nn.functional.cross_entropy(after(sender.images), sender.labels).backward()
    optimiser.step()
    path, before = tmp_path / "update.safetensors", dict(sender.model.state_dict())
    facts = FACTS | {"optimiser": "adam", "learning_rate": 0.001, "steps": 1}
    write_recording(path, manifest=declared(**facts), before=before, client=dict(after.state_dict()))
    client = made(path)
    assert client.obfuscation == "sign"
    for name, slope in FedSGD()(sender.model, sender.batch).items():
        clear = slope.abs() > 1e-5  # a thousand times what Adam adds to the denominator
        assert float(clear.float().mean()) > 0.5
        assert torch.equal(client.update.tensors[name].sign()[clear], slope.sign()[clear])
        torch.testing.assert_close(
            client.update.tensors[name].abs()[clear], torch.full_like(slope[clear], 1e-3), rtol=2e-3, atol=0
        )


def test_a_summed_loss_is_simulated_and_a_normalisation_undone(tmp_path: Path) -> None:
    sender = simulated()
    path = tmp_path / "update.safetensors"
    summed = {name: 4 * tensor for name, tensor in sender.update().tensors.items()}
    normalisation = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    facts = FACTS | {"loss_reduction": "sum", "normalisation": normalisation}
    write_recording(path, manifest=declared(**facts), before=dict(sender.model.state_dict()), gradient=summed)
    client = made(path)
    assert torch.equal(client.update.tensors["head.bias"], summed["head.bias"])
    assert client.training == "fedsgd:reduction=sum"
    assert client.normalisation == "mean 0.5 0.5 0.5, std 0.25 0.25 0.25"
    images = sender.images
    torch.testing.assert_close(client.model(images), sender.model((images - 0.5) / 0.25), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"image_shape": None}, "it does not say the shape of its pictures; give --fact image_shape=[3,32,32]"),
        ({"examples": None}, "it does not say how many pictures it is of; give --fact examples=8"),
        ({"labels": [1, 2]}, "the numbers of pictures differ (examples 4, labels 2); correct them"),
        ({"labels": [1, 2, 3, 10]}, "label 10 is out of range for 10 classes; correct labels or classes"),
        ({"examples": 10**8}, "its pictures, 100000000 of 3 x 16 x 16, are too many; correct examples or image_shape"),
        (
            {"image_shape": [3, 10**9, 10**9]},
            "its pictures, 1 of 3 x 1000000000 x 1000000000, are too many; correct",
        ),
        ({"classes": 10**9}, "expected 2 to 32 classes, which is the most rows of a tensor, got 1,000,000,000"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_a_sentence(facts: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = recorded(tmp_path, simulated(), **facts)
    with pytest.raises(UsageError, match=re.escape(says)):
        made(path)


def test_the_recordings_own_model_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spy.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    client = made(recorded(tmp_path, simulated(), model="spy:Net", framework="spy"))
    assert client.model_name == MODEL
    assert not (tmp_path / "imported").exists()


def test_truth_is_every_picture_of_a_folder(tmp_path: Path) -> None:
    sender = simulated()
    path = recorded(tmp_path, sender, examples=None)
    truth = save_truth(tmp_path, sender)
    client = made(path, truth=truth)
    assert client.truth is not None
    torch.testing.assert_close(client.truth, sender.images, rtol=0, atol=1e-6)
    (truth / "cats").mkdir()
    (truth / "0.png").rename(truth / "cats" / "0.png")
    assert len(made(path, truth=truth).truth) == 4  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the numbers of pictures differ \(examples 3, --truth 4\)"):
        made(recorded(tmp_path, sender, examples=3), truth=truth)
    with pytest.raises(UsageError, match=r"--truth .*none is no folder; name the folder"):
        made(path, truth=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--truth .*empty holds 0 pictures, expected 1 to 4,096"):
        made(path, truth=tmp_path / "empty")
    with pytest.raises(UsageError, match="--truth: pictures of 2 channels cannot be read"):
        recorded_client(read_recording(recorded(tmp_path, sender, image_shape=[2, 16, 16])), MODEL, truth=truth)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="build the model as it was trained"):
        recorded_client(read_recording(recorded(tmp_path, simulated())), "lenet")


@pytest.mark.parametrize("spec", ["layers:send=no-head", "layers:send=no-head+qsgd:levels=64,norm=max"])
def test_layers_of_zeros_were_not_sent_where_the_manifest_says_that_layers_are_kept_back(
    spec: str, tmp_path: Path
) -> None:
    client = made(recorded(tmp_path, simulated(), parse(spec), obfuscation=spec))
    assert (client.obfuscation, client.update.count_sent("head.weight")) == (spec, 0)
    assert client.knowledge.obfuscation is not None
    misfit = client.knowledge.obfuscation.misfit(client.update)
    truth = simulated().update().tensors
    other = {**truth, "head.weight": truth["head.weight"] + 3, "hidden.weight": truth["hidden.weight"] - 3}
    assert float(misfit(other)) == float(misfit(truth))
    wrong = {**truth, "features.0.weight": truth["features.0.weight"] + 3}
    assert float(misfit(wrong)) > float(misfit(truth)) + 0.5
