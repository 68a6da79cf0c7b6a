"""What a worker is given: the pictures and weights that the command has read, which may not be there where it runs."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from audits.recorded.recordings import AVERAGED, MODEL, recorded, save_truth, simulated
from unveil.advice import folder as kept_in
from unveil.advice.training import train
from unveil.audits.executor import Serial
from unveil.audits.results import trial_key
from unveil.audits.task import Runnable
from unveil.audits.worker import Order, begin
from unveil.cli.advice_config import load_question
from unveil.cli.described import DescribedAudit, DescribedRecordings, DescribedUpdates
from unveil.cli.recorded import RecordedOptions
from unveil.clients.models import build_model
from unveil.clients.training import FedAvg
from unveil.core.errors import UsageError
from unveil.core.reads import Reads, shared_read, sharing
from unveil.obfuscations import parse

Make = Callable[[], Runnable]

AUDIT = """
controls = ["another client"]
metrics = { decoys = 2 }
[[client]]
name = "clinic"
images = "pictures"
weights = "trained.npz"
size = 12
batch = 2
[[attack]]
name = "rog"
steps = 1
"""
ADVICE = """
target = "psnr.worst <= 5"
candidates = ["fp16"]
attacks = ["rog:steps=1"]
[federation]
images = "pictures"
weights = "trained.npz"
size = 12
clients = 2
batch = 2
rounds = 1
training = "fedsgd"
server_lr = 0.1
test = 2
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures of two classes and weights."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    for number in range(8):
        (tmp_path / "pictures" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (30 * number, 0, 90)).save(tmp_path / "pictures" / f"{number % 2}" / f"{number}.png")
    model = build_model("lenet", image_shape=(3, 12, 12), classes=2, seed=9)
    np.savez(tmp_path / "trained.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    return tmp_path


def of_file(here: Path, reads: Reads) -> Make:
    Path("audit.toml").write_text(AUDIT)
    return DescribedAudit(file=Path("audit.toml"))


def of_recordings(here: Path, reads: Reads) -> Make:
    client = simulated(FedAvg(steps=3, lr=0.05))
    path = recorded(here, client, **AVERAGED, obfuscation="none", client="clinic")
    options = RecordedOptions(model=MODEL, truth=save_truth(here, client), attacks=("rog:steps=1",))
    return DescribedRecordings(file=path, options=options)


def of_federation(here: Path, reads: Reads) -> Make:
    Path("advise.toml").write_text(ADVICE)
    with sharing(reads):
        federation = load_question(Path("advise.toml")).federation
    for seed in federation.seeds:
        kept_in.keep(Path("out"), kept_in.key_of(federation, "fp16", seed), train(federation, parse("fp16"), seed=seed))
    updates = DescribedUpdates(
        file=Path("advise.toml"),
        overrides=(),
        images="full",
        folder=Path("out"),
        obfuscation="fp16",
        without=frozenset(),
    )
    with sharing(reads):
        updates.trainings(federation)
    return updates


@pytest.mark.slow
@pytest.mark.parametrize("described", [of_file, of_recordings, of_federation])
def test_a_worker_makes_the_audit_where_the_files_are_not(
    here: Path, described: Callable[[Path, Reads], Make], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)  # a worker replaces it
    reads: Reads = {}
    make = described(here, reads)
    with sharing(reads):
        audit = make()
    order = Order(
        make=make,
        folder=str(here),
        arithmetic="auto",
        threads=torch.get_num_threads(),
        settings=audit.settings(),
        versions=Serial().versions(audit.device),
        watched=False,
        reads=reads,
    )
    content = pickle.dumps(order)
    for path in here.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".toml":
            path.unlink()
    there = begin(pickle.loads(content))  # compares the checksums of pictures and weights
    assert len(there.tasks) == len(audit)
    assert there.order.reads == {}
    task = next(iter(audit.tasks()))
    assert there.tasks[trial_key(task.settings, task.seed)].run(None).scores == task.run(None).scores
    with pytest.raises(UsageError, match=r"'pictures' is not a folder|update\.safetensors does not exist"):
        make()


def test_a_file_is_read_once_for_each_arguments_and_nothing_is_kept_without_a_place() -> None:
    calls: list[tuple[object, ...]] = []

    @shared_read
    def read(path: str, *, size: int = 1) -> Mapping[str, int]:
        calls.append((path, size))
        return {path: size}

    reads: Reads = {}
    with sharing(reads):
        first = read("a")
        assert read("a") is first
        assert read("a", size=2) == {"a": 2}
        with sharing(None):
            assert read("a") is not first
    assert calls == [("a", 1), ("a", 2), ("a", 1)]
    assert len(reads) == 2
    assert read("a") is not first  # outside the block
    with sharing({key: {"handed on": 3} for key in reads}):
        assert read("a") == {"handed on": 3}
    assert len(calls) == 4
