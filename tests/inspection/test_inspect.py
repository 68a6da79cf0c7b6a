"""A recorded update inspected, from Python and by the command."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from unveil.captures.conversion import nameless_update_of
from unveil.captures.manifest import Manifest, declared
from unveil.captures.reading import read_recording
from unveil.captures.writing import write_recording
from unveil.cli import app as cli
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.core.errors import UsageError
from unveil.core.update import Update
from unveil.inspection.inspect import inspect
from unveil.obfuscations import parse

SPEC = "topk:density=0.25"
FACTS: Mapping[str, Any] = {"image_shape": (3, 16, 16), "classes": 10, "examples": 4}


@pytest.fixture(scope="module")
def client() -> Client:
    images = load_pictures("builtin", count=4, size=16).images
    model = build_model("lenet", image_shape=(3, 16, 16), classes=10, seed=3)
    return Client(model, images, torch.tensor([3, 1, 8, 3]))


@pytest.fixture
def recorded(client: Client, tmp_path: Path) -> Callable[[Manifest], Path]:
    """Write the client's update as a file."""

    def write(manifest: Manifest) -> Path:
        path = tmp_path / "update.safetensors"
        before = {name: p.detach() for name, p in client.model.named_parameters()}
        sent = client.update(parse(SPEC)).tensors
        write_recording(path, before=before, gradient=dict(sent), manifest=manifest)
        return path

    return write


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(args)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


@pytest.mark.slow
def test_the_command_names_the_obfuscation_and_the_labels(
    recorded: Callable[[Manifest], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(recorded(declared(**FACTS)))
    code, out, _ = printed(capsys, "inspect", path, "--model", "lenet")
    assert code == 0
    assert f"Obfuscation: {SPEC} (confidence 0.99)" in out
    assert "Labels: 1 of class 1, 2 of class 3, 1 of class 8" in out
    code, out, _ = printed(capsys, "inspect", path, "--json")
    found = json.loads(out)
    assert (code, found["fingerprint"]["spec"], found["tensors"], found["counts"]) == (0, SPEC, 6, None)
    assert found["label_note"] == "Label counts need the network: name it with --model."


def test_the_network_needs_facts(recorded: Callable[[Manifest], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(recorded(Manifest()))
    code, _, err = printed(capsys, "inspect", path, "--model", "lenet")
    assert code == 2
    assert "it does not say the shape of its pictures; give --fact image_shape=[3,32,32]" in err


@pytest.mark.slow
def test_what_the_manifest_says_stands_beside(
    recorded: Callable[[Manifest], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = printed(capsys, "inspect", str(recorded(Manifest())), "--fact", "obfuscation=sign")
    assert code == 0
    assert f"Obfuscation: {SPEC}" in out
    assert "The manifest says: sign\n" in out


@pytest.mark.slow
def test_labels_that_cannot_be_inferred_are_said(client: Client) -> None:
    sent = dict(client.update().tensors)
    del sent["9.weight"]
    found = inspect(Update(sent), model=client.model, knowledge=client.knowledge())
    assert found.counts is None
    assert found.label_note.startswith("Label counts cannot be inferred: ")


def test_without_the_model_the_sign_is_turned_and_buffers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    delta = {"w": torch.tensor([1.0, -2.0]), "n.running_mean": torch.ones(2), "n.num_batches_tracked": torch.tensor(1)}
    write_recording(path, delta=delta)
    tensors = nameless_update_of(read_recording(path)).tensors
    assert {name: t.tolist() for name, t in tensors.items()} == {"w": [-1.0, 2.0]}


def test_buffers_alone_are_no_update(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    write_recording(path, delta={"n.running_mean": torch.ones(2)})
    with pytest.raises(UsageError, match="it holds no floating-point tensor of parameters; record the client's"):
        nameless_update_of(read_recording(path))
