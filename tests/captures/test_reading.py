"""Reading: the same recorded update from every format, its order, folders, and what is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from captures.hostile import raw
from captures.test_manifest import FORMAT
from seeds import seeded
from unveil.captures.manifest import Manifest, declared
from unveil.captures.reading import read_recording, read_recordings
from unveil.captures.recording import Recording
from unveil.captures.writing import write_recording
from unveil.core.errors import UsageError

State = dict[str, torch.Tensor]


def states() -> tuple[State, State]:
    """A `state_dict` before and after local training; its counter went from 0 to 3."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).state_dict()
    floats, rng = [name for name in network if network[name].is_floating_point()], seeded(0)
    before = {name: torch.randn(network[name].shape, generator=rng) for name in floats}
    after = {name: tensor + torch.randn(tensor.shape, generator=rng) for name, tensor in before.items()}
    counter = "1.num_batches_tracked"
    return {**before, counter: torch.tensor(0)}, {**after, counter: torch.tensor(3)}


def flat(before: State, after: State) -> State:
    return {f"{part}/{n}": t for part, state in (("global", before), ("client", after)) for n, t in state.items()}


def written(folder: Path, kind: str) -> Path:
    before, after = states()
    text = str(declared(learning_rate=0.1, epochs=1))
    path = folder / f"update{kind.partition(' ')[0]}"
    if kind.startswith(".safetensors"):
        save_file(flat(before, after), path, {"manifest": text})
    elif kind.startswith(".npz"):
        save = np.savez_compressed if kind.endswith("compressed") else np.savez
        save(path, **{name: tensor.numpy() for name, tensor in flat(before, after).items()}, manifest=text)  # type: ignore[arg-type]
    elif kind.endswith("flat"):
        torch.save({**flat(before, after), "manifest": text}, path)
    else:
        given: Any = {"global": before, "client": OrderedDict(after), "manifest": text}
        if kind.endswith("parameters"):
            given["client"] = {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in after.items()}
        torch.save(given, path)
    return path


FORMATS = [".safetensors", ".npz", ".npz compressed", ".pt", ".pt flat", ".pt parameters", ".pth"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_recording(kind: str, tmp_path: Path) -> None:
    before, after = states()
    path = written(tmp_path, kind)
    recording = read_recording(path)
    assert {name: fact.value for name, fact in recording.manifest.facts.items() if fact.source == "declared"} == {
        "learning_rate": 0.1,
        "epochs": 1,
    }
    assert recording.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(recording.sent) == list(recording.manifest.order)
    assert recording.sent.keys() == after.keys()
    for name in before:
        assert torch.equal(recording.before[name], before[name])
        assert torch.equal(recording.client[name], after[name])
        assert recording.client[name].dtype == after[name].dtype
        assert torch.equal(recording.changes[name], after[name] - before[name])
    assert recording.changes["1.num_batches_tracked"].tolist() == 3


def test_safetensors_are_read_as_its_own_library_reads_them(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    given = {f"delta/{kind}": (torch.rand(3, 5, generator=seeded(0)) * 100).to(kind) for kind in kinds}
    given |= {"delta/i8": torch.tensor([-3], dtype=torch.int8), "delta/u8": torch.tensor([250], dtype=torch.uint8)}
    given |= {
        "delta/bool": torch.tensor([True, False, True]),
        "delta/empty": torch.zeros(0, 3),
        "delta/one": torch.ones(()),
    }
    save_file(given, tmp_path / "update.safetensors")
    recording = read_recording(tmp_path / "update.safetensors")
    for name, tensor in load_file(tmp_path / "update.safetensors").items():
        own = recording.delta[name.removeprefix("delta/")]
        assert own.dtype == tensor.dtype
        assert torch.equal(own, tensor)
    assert len(recording.delta) == len(given)


def test_values_at_odd_places_are_read(tmp_path: Path) -> None:
    header = {
        "delta/a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "delta/b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    body = b"\x07" + np.array([1.5, -2.0], np.float32).tobytes()
    (tmp_path / "update.safetensors").write_bytes(raw(json.dumps(header).encode(), body))
    recording = read_recording(tmp_path / "update.safetensors")
    assert recording.delta["b"].tolist() == [1.5, -2.0]
    assert recording.changes["a"].tolist() == [7]


def test_changes_are_after_minus_before_and_a_gradient_goes_down(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    one, two = torch.tensor([1.0]), torch.tensor([2.5])
    write_recording(path, before={"a": one}, client={"a": two})
    assert read_recording(path).changes["a"].tolist() == [1.5]
    write_recording(path, delta={"a": two}, gradient={"b": one})
    assert {name: change.tolist() for name, change in read_recording(path).changes.items()} == {"a": [2.5], "b": [-1.0]}


def test_changes_of_half_precision_are_not_rounded_to_it(tmp_path: Path) -> None:
    before, after = torch.tensor([1.0], dtype=torch.float16), torch.tensor([2049.0], dtype=torch.float32)
    path = tmp_path / "update.safetensors"
    write_recording(path, before={"a": before}, client={"a": after.half()})
    changes = read_recording(path).changes["a"]
    assert changes.dtype == torch.float32
    assert changes.tolist() == [2047.0]


def test_the_manifest_keeps_the_order_and_numbers_count_up(tmp_path: Path) -> None:
    path = tmp_path / "update.safetensors"
    names = ["z", "a", "10"]
    write_recording(path, gradient={name: torch.ones(1) for name in names})
    assert list(load_file(path)) == ["gradient/10", "gradient/a", "gradient/z"]
    assert list(read_recording(path).sent) == names
    save_file({f"gradient/{i}": torch.full((1,), float(i)) for i in range(12)}, path)
    assert [float(tensor) for tensor in read_recording(path).sent.values()] == list(range(12))


def test_two_state_dicts_are_one_recorded_update(tmp_path: Path) -> None:
    before, after = states()
    torch.save(before, tmp_path / "before.pt")
    np.savez(tmp_path / "after.npz", **{name: tensor.numpy() for name, tensor in after.items()})  # type: ignore[arg-type]
    recording = read_recording(tmp_path / "after.npz", before=tmp_path / "before.pt")
    assert all(torch.equal(recording.changes[name], after[name] - before[name]) for name in after)
    both = "".join(hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() + " " for n in ("after.npz", "before.pt"))
    assert recording.digest == hashlib.sha256(both.strip().encode()).hexdigest()
    with pytest.raises(UsageError, match="has no global/ beside it"):
        read_recording(tmp_path / "after.npz")
    write_recording(tmp_path / "whole.safetensors", before=before, client=after)
    with pytest.raises(UsageError, match="has weights of its own before local training; leave the others out"):
        read_recording(tmp_path / "whole.safetensors", before=tmp_path / "before.pt")
    again = read_recording(tmp_path / "after.npz", before=tmp_path / "whole.safetensors")
    assert torch.equal(again.before["0.weight"], before["0.weight"])


def made(folder: Path, name: str, **facts: Any) -> None:
    write_recording(folder / f"{name}.safetensors", manifest=declared(**facts), gradient={"w": torch.ones(1)})


def test_a_folder_holds_rounds_and_clients(tmp_path: Path) -> None:
    made(tmp_path, "a", round=2, client="x")
    made(tmp_path, "b", round=1, client="y")
    made(tmp_path, "c", round=1, client="x")
    (tmp_path / "notes.txt").write_text("no recorded update")
    assert [recording.path.stem for recording in read_recordings(tmp_path)] == ["c", "b", "a"]
    (alone,) = read_recordings(tmp_path / "a.safetensors")
    assert alone.manifest.round.value == 2


def test_a_folder_shares_the_weights_before_training(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "global.pt")
    torch.save({"w": torch.full((1,), 3.0)}, tmp_path / "one.pt")
    write_recording(tmp_path / "two.safetensors", before={"w": torch.zeros(1)}, client={"w": torch.full((1,), 7.0)})
    assert [float(r.changes["w"]) for r in read_recordings(tmp_path)] == [2.0, 7.0]
    with pytest.raises(UsageError, match=r"has 'global.pt'; move it away, or leave the other weights out"):
        read_recordings(tmp_path, before=tmp_path / "one.pt")
    torch.save({"w": torch.ones(1)}, tmp_path / "global.pth")
    with pytest.raises(UsageError, match="has 2 files called global; keep one of them"):
        read_recordings(tmp_path)


def test_an_empty_folder_and_a_giant_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has 0 files ending in .* expected 1 to 10,000"):
        read_recordings(tmp_path)
    with (tmp_path / "a.pt").open("wb") as file:
        file.truncate(5 * 2**30)  # a hole, which takes no room on the disk
    with pytest.raises(UsageError, match=r"1 files ending in .* of 5 GiB, expected .* of at most 4 GiB together"):
        read_recordings(tmp_path)
    with pytest.raises(UsageError, match="has 5 GiB, and at most 4 GiB are read"):
        read_recording(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"client": {"w": torch.ones(1)}}, "has no global/ beside it"),
        ({"gradient": {"w": torch.full((1,), float("nan"))}}, "holds NaN or infinite values"),
        ({"gradient": {"w": torch.ones(1)}, "delta": {"w": torch.ones(1)}}, "is in more than one of"),
        ({}, "nothing in it was sent"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(parts: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(says)}.*; correct the tensors"):
        write_recording(tmp_path / "update.safetensors", **parts)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    made(tmp_path, "a")
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match=r"expected a name ending in \.safetensors; rename it"):
        write_recording(tmp_path / "a.npz", gradient={"w": torch.ones(1)})
    with pytest.raises(UsageError, match="cannot write to"):
        made(tmp_path / "none", "a")


def test_the_writer_of_the_page_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert code
    before, after = states()
    monkeypatch.chdir(tmp_path)
    exec(compile(code.group(1), "docs/format.md", "exec"), {"before": before, "after": after})
    recording: Recording = read_recording("update.safetensors")
    assert list(recording.sent) == list(after)
    assert recording.manifest.batch_size.value == 8
    assert recording.manifest.learning_rate.source == "declared"
    assert recording.manifest.momentum == Manifest().momentum
    assert all(torch.equal(recording.changes[name], after[name] - before[name]) for name in after)
