"""Memory that an audit needs at least, counted by hand, and the refusal of one that cannot fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.nn import Flatten, Linear, ReLU, Sequential

from unveil import attacks, obfuscations
from unveil.audits import memory
from unveil.audits.audit import Audit
from unveil.audits.memory import free_bytes, least_bytes, refuse_too_large
from unveil.cli.app import main
from unveil.clients.client import Client
from unveil.clients.training import FedSGD

FLOAT, PICTURES, INPUTS, HIDDEN, CLASSES = 4, 6, 3 * 4 * 4, 10, 5
CPU = torch.device("cpu")


def client(*, pictures: int = PICTURES) -> Client:
    model = Sequential(Flatten(), Linear(INPUTS, HIDDEN), ReLU(), Linear(HIDDEN, CLASSES))
    return Client(
        model, torch.rand(pictures, 3, 4, 4), torch.zeros(pictures).long(), training=FedSGD(), classes=CLASSES
    )


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for what the system says, which says nothing yet."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUPS", tuple((tmp_path, limit, used) for _folder, limit, used in memory.GROUPS))
    return tmp_path


@pytest.mark.parametrize("pictures", [1, 2, PICTURES])
def test_two_updates_and_the_inputs_of_each_layer(pictures: int) -> None:
    update = FLOAT * (INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES)
    # Each Linear layer keeps its input; what ReLU keeps is the input of the second one.
    activations = FLOAT * (INPUTS + HIDDEN)
    assert least_bytes(client(pictures=pictures)) == 2 * update + pictures * activations


def test_frozen_weights_are_not_sent() -> None:
    one = client()
    one.model[1].requires_grad_(False)
    update = FLOAT * (HIDDEN * CLASSES + CLASSES)
    assert least_bytes(one) == 2 * update + PICTURES * FLOAT * HIDDEN  # nothing is kept for a frozen layer


def test_what_the_machine_says_is_available(system: Path) -> None:
    assert free_bytes(CPU) is None
    (system / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   300 kB\nSwapFree:  20 kB\nHugePages_Total: 0\n")
    assert free_bytes(CPU) == 320 * 1024


@pytest.mark.parametrize(("limit", "used"), [("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")])
def test_a_container_leaves_less(system: Path, limit: str, used: str) -> None:
    (system / "meminfo").write_text("MemAvailable:   300 kB\nSwapFree:  20 kB\n")
    (system / limit).write_text("100000\n")
    (system / "memory.stat").write_text(f"file 5\n{used} 30000\n")
    assert free_bytes(CPU) == 70_000
    (system / limit).write_text("max\n")
    assert free_bytes(CPU) == 320 * 1024


def test_an_audit_that_cannot_fit_is_refused_in_a_sentence(system: Path) -> None:
    audit = Audit(clients=[client()], obfuscations=[obfuscations.parse("none")], attacks=[attacks.parse("unveil")])
    refuse_too_large(audit)  # of a system that does not tell nothing is asked
    (system / "meminfo").write_text("MemAvailable:   4 kB\nSwapFree:  0 kB\n")
    needed = least_bytes(audit.clients[0])
    sentence = (
        f"6 pictures of 3 x 4 x 4 need at least {needed / 1024:.1f} KiB of memory for one pass through the model, and "
        "4 KiB are free; take fewer pictures with `batch`, smaller ones with `size`, or a machine with more memory"
    )
    with pytest.raises(memory.UsageError, match=re.escape(sentence)):
        refuse_too_large(audit)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "check"])
def test_commands_refuse_before_anything_is_run(
    command: str, system: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(system)
    (system / "meminfo").write_text("MemAvailable:   4 kB\nSwapFree:  0 kB\n")
    (system / "mine.toml").write_text('[[client]]\nname = "mine"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n')
    with pytest.raises(SystemExit) as left:
        main([command, "mine.toml"])
    assert left.value.code == 2
    assert "and 4 KiB are free" in capsys.readouterr().err
    assert not (system / "audits").exists()
