"""Trained weights from files: the same numbers in their places, or a sentence."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seeds import shifted
from unveil.clients.models.checkpoints import load_into, read_checkpoint
from unveil.core.errors import UsageError


def net(seed=0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(shifted(seed))
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 5))


def loaded(path, model=None):
    model = model or net(seed=1)
    load_into(model, read_checkpoint(path))
    return model.state_dict()


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth", ".ckpt"])
def test_every_format(tmp_path, suffix):
    path, state = tmp_path / f"a b{suffix}", net().state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".npz":
        np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path)
    assert same(loaded(path), state)


@pytest.mark.parametrize(
    "packed",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": {"state_dict": state}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"model.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"net.backbone.{name}": tensor for name, tensor in state.items()},
        lambda state: {name.replace("1.", "1._orig_mod."): tensor for name, tensor in state.items()},
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches" not in name},
        lambda state: dict(reversed(state.items())),
    ],
)
def test_nests_and_prefixes(tmp_path, packed):
    state = net().state_dict()
    torch.save(packed(state), tmp_path / "w.pt")
    assert same(loaded(tmp_path / "w.pt"), state)


def test_a_network_that_wraps_the_trained_one(tmp_path):
    torch.save(net().state_dict(), tmp_path / "w.pt")

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net(seed=1)

    assert same(loaded(tmp_path / "w.pt", Wrapped()), {f"inner.{n}": t for n, t in net().state_dict().items()})


def test_half_precision_becomes_the_models_own(tmp_path):
    torch.save(net().half().state_dict(), tmp_path / "w.pt")
    found = loaded(tmp_path / "w.pt")
    assert found["0.weight"].dtype == torch.float32
    assert torch.equal(found["0.weight"], net().half().state_dict()["0.weight"].float())


def test_another_file_has_another_checksum(tmp_path):
    names = []
    for seed in (0, 1):
        torch.save(net(seed=seed).state_dict(), tmp_path / "w.pt")
        names.append(str(read_checkpoint(tmp_path / "w.pt")))
    assert names[0] != names[1]
    assert names[0].startswith("w.pt (SHA-256 ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("3.bias"), r"the model's '3.bias' is missing, the nearest is .*; build the model as it was"),
        (lambda s: s.update({"4.bias": s.pop("3.bias")}), r"'3.bias' is missing, the nearest is '4.bias'"),
        (lambda s: s.update({"9.x": s["3.bias"]}), r"'9.x' is no tensor of the model"),
        (lambda s: s.update({"3.bias": torch.zeros(6)}), r"'3.bias' has shape \(6,\), and the model's has \(5,\)"),
        (lambda s: s["3.weight"].fill_(float("nan")), r"'3.weight' holds NaN, infinite or complex values"),
        (lambda s: s.update({"3.bias": torch.zeros(1).expand(10**12)}), r"'3.bias' has shape"),
        (lambda s: s.update({"3.bias": s["3.bias"].to_sparse()}), r"'3.bias' is sparse, quantised or"),
        (lambda s: s.clear(), r"holds no tensors by name; save"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=message) as caught:
        loaded(tmp_path / "w.pt")
    assert "w.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_file_that_would_run_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Harm()}, "a.pt")
    Path("b.pth").write_bytes(pickle.dumps(Harm()))
    np.savez("c.npz", x=np.array([Harm()], dtype=object))
    for name in ("a.pt", "b.pth", "c.npz"):
        with pytest.raises(UsageError, match=r"cannot be read \(.*; save model.state_dict\(\) alone"):
            read_checkpoint(name)
    assert not Path("harm").exists()
    torch.save(net(), "whole.pt")
    with pytest.raises(UsageError, match="holds more than tensors"):
        read_checkpoint("whole.pt")


def test_files_that_are_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.pt").touch()
    Path("text.safetensors").write_text("hello")
    Path("text.npz").write_text("hello")
    Path("net.onnx").touch()
    Path("folder.pt").mkdir()
    torch.save([1, 2], "list.pt")
    torch.save(torch.zeros(3), "one.pt")
    os.mkfifo("pipe.pt")
    for name, message in [
        ("empty.pt", "cannot be read"),
        ("text.safetensors", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("net.onnx", "expected a file ending in .safetensors"),
        ("folder.pt", "is a folder"),
        ("pipe.pt", "expected a regular file"),
        ("absent.pt", "does not exist; check the path"),
        ("list.pt", "holds a list, expected tensors by name"),
        ("one.pt", "expected tensors by name"),
    ]:
        with pytest.raises(UsageError, match=message):
            read_checkpoint(name)


def test_a_file_that_unpacks_to_more_than_a_machine_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("unveil.core.state_dicts.BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", bytes(2 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    with pytest.raises(UsageError, match="at most 1 MiB are read"):
        read_checkpoint(tmp_path / "bomb.npz")
