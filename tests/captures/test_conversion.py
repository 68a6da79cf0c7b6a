"""A recorded update as unveil's own: what a client sent is read equal to the bit, and signs are turned once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from seeds import seeded
from unveil.captures.conversion import update_of
from unveil.captures.reading import read_recording
from unveil.captures.writing import write_recording
from unveil.clients.client import Client
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.errors import UsageError
from unveil.core.protocols import LocalTraining
from unveil.core.update import Update


def client(training: LocalTraining) -> Client:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    images = torch.rand((4, 3, 8, 8), generator=seeded(0))
    return Client(model, images, torch.arange(4), training=training)


def equal(some: Update, other: Update) -> bool:
    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)

    if not same(dict(some.tensors), dict(other.tensors)) or (some.buffers is None) != (other.buffers is None):
        return False
    one, two = some.buffers, other.buffers
    return (
        one is None
        or two is None
        or (
            same(dict(one.statistics.tensors), dict(two.statistics.tensors))
            and same(dict(one.counters), dict(two.counters))
        )
    )


def buffers(update: Update) -> dict[str, torch.Tensor]:
    changes = update.buffers
    return {} if changes is None else {**changes.statistics.tensors, **changes.counters}


@pytest.mark.parametrize("training", [FedSGD(), FedSGD(mode="train", buffers="sent")])
def test_a_recorded_gradient_is_the_clients_to_the_bit(training: LocalTraining, tmp_path: Path) -> None:
    sender = client(training)
    update = sender.update(seed=1)
    write_recording(tmp_path / "u.safetensors", gradient=update.tensors, delta=buffers(update))
    assert equal(update_of(read_recording(tmp_path / "u.safetensors"), sender.model), update)


@pytest.mark.parametrize(
    "training", [FedAvg(steps=3, lr=0.01), FedAvg(epochs=1, batch_size=2, lr=0.01, mode="train", buffers="sent")]
)
def test_a_recorded_difference_is_the_clients_to_the_bit(training: LocalTraining, tmp_path: Path) -> None:
    sender = client(training)
    update = sender.update(seed=1)
    after_minus_before = {name: -tensor for name, tensor in update.tensors.items()}
    write_recording(tmp_path / "u.safetensors", delta={**after_minus_before, **buffers(update)})
    assert equal(update_of(read_recording(tmp_path / "u.safetensors"), sender.model), update)


def test_weights_sent_whole_give_the_difference_within_their_rounding(tmp_path: Path) -> None:
    sender = client(FedAvg(steps=3, lr=0.01))
    update = sender.update()
    before = dict(sender.model.state_dict())
    after = {
        name: tensor - update.tensors[name] if name in update.tensors else tensor for name, tensor in before.items()
    }
    write_recording(tmp_path / "u.safetensors", before=before, client=after)
    read = update_of(read_recording(tmp_path / "u.safetensors"), sender.model)
    assert read.buffers is None
    for name, tensor in update.tensors.items():
        torch.testing.assert_close(read.tensors[name], tensor, rtol=0, atol=2**-24 * float(before[name].abs().max()))


def test_the_sign_is_that_of_the_gradient(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    path = tmp_path / "u.safetensors"
    write_recording(path, before={"weight": torch.tensor([[5.0]])}, client={"weight": torch.tensor([[3.0]])})
    assert update_of(read_recording(path), model).tensors["weight"].item() == 2.0
    write_recording(path, delta={"weight": torch.tensor([[-2.0]])})
    assert update_of(read_recording(path), model).tensors["weight"].item() == 2.0
    write_recording(path, gradient={"weight": torch.tensor([[2.0]])})
    assert update_of(read_recording(path), model).tensors["weight"].item() == 2.0


def test_tensors_come_in_the_models_order_and_type(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    path = tmp_path / "u.safetensors"
    write_recording(path, delta={"bias": torch.ones(1).half(), "weight": torch.ones(1, 1).double()})
    update = update_of(read_recording(path), model)
    assert list(update.tensors) == ["weight", "bias"]
    assert {tensor.dtype for tensor in update.tensors.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": torch.ones(1, 1)}, "'weights' is no tensor of the model; name the client's own model"),
        ({"weight": torch.ones(2, 1)}, r"'weight' has shape \(2, 1\), and the model's has \(1, 1\)"),
    ],
)
def test_what_is_not_the_models_is_refused(given: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    write_recording(tmp_path / "u.safetensors", delta=given)
    with pytest.raises(UsageError, match=says):
        update_of(read_recording(tmp_path / "u.safetensors"), nn.Linear(1, 1))
