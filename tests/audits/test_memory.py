"""The estimate of an audit's memory beside what its tensors take, and the refusal of one that does not fit."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch.nn import Flatten, Linear, ReLU, Sequential

from seeds import seeded, shifted
from unveil import attacks, obfuscations
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits import memory
from unveil.audits.audit import Audit
from unveil.audits.memory import attacked_in, free_bytes, largest_need, refuse_too_large
from unveil.audits.peak import activation_bytes
from unveil.audits.pipeline import play
from unveil.cli.app import main
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.files import amount
from unveil.core.live_bytes import LiveBytes
from unveil.core.obfuscation_memory import MOST, obfuscating_copies, update_bytes
from unveil.core.update import Update
from unveil.obfuscations.none import Identity

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
def test_activations_are_the_inputs_of_each_layer(pictures: int) -> None:
    one = client(pictures=pictures)
    # Each Linear layer keeps its input; what ReLU keeps is the input of the second one.
    assert activation_bytes(one.model, one.knowledge(None)) == pictures * FLOAT * (INPUTS + HIDDEN)
    assert update_bytes(one.model) == FLOAT * (INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES)


def test_frozen_weights_are_not_sent() -> None:
    one = client()
    one.model[1].requires_grad_(False)
    assert update_bytes(one.model) == FLOAT * (HIDDEN * CLASSES + CLASSES)
    assert activation_bytes(one.model, one.knowledge(None)) == PICTURES * FLOAT * HIDDEN  # none for a frozen layer


def drawn(model: str, pictures: int, size: int) -> Client:
    """A client with dead leaves, each of a class of its own."""
    shape, generator = (3, size, size), seeded()
    return Client(
        build_model(model, image_shape=shape, classes=48, seed=shifted()),
        dead_leaves(pictures, shape, generator=generator),
        torch.arange(pictures),
        training=FedSGD(),
        classes=48,
    )


def measured(one: Client, obfuscation: str, attack: str) -> int:
    """Bytes of tensors at the peak of a trial: while the client trains and sends, or while it is attacked."""
    with LiveBytes() as live:
        play(one, obfuscations.parse(obfuscation), attacks.parse(attack))
    return live.peak


def estimated(one: Client, obfuscation: str, attack: str) -> int:
    trial = (one, one.knowledge(obfuscations.parse(obfuscation)), attacks.parse(attack))
    return largest_need([trial]).bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "pictures", "size", "obfuscation"),
    [
        ("lenet", 2, 16, "none"),
        ("lenet", 4, 32, "topk:density=0.05"),
        ("lenet", 16, 16, "qsgd:levels=16,norm=max"),
        ("lenet", 40, 16, "qsgd:levels=16,norm=max"),
        ("lenet", 4, 16, "sign:scale=true"),
        ("vgg7", 4, 16, "gaussian:relative=0.1"),
        ("resnet18", 2, 16, "none"),
    ],
)
def test_the_peak_lies_below_the_estimate_and_near_it(model: str, pictures: int, size: int, obfuscation: str) -> None:
    one = drawn(model, pictures, size)
    taken, expected = (of(one, obfuscation, "unveil:steps=2") for of in (measured, estimated))
    assert taken < expected < 2.5 * taken


@pytest.mark.parametrize(("spec", "copies"), [("none", 0), ("clip:norm=0.1", 1), ("fp16", 1.5), ("sign:scale=true", 2)])
def test_copies_that_an_obfuscation_makes(spec: str, copies: float) -> None:
    """The result alone, or with the same values in half the bits, or with their magnitudes."""
    assert obfuscating_copies(obfuscations.parse(spec)) == pytest.approx(copies, rel=0.01)


def test_of_an_obfuscation_that_fails_the_most_is_reckoned() -> None:
    class Failing(Identity):
        def __call__(self, update: Update, *, generator: torch.Generator) -> Update:
            raise ValueError

    assert obfuscating_copies(Failing()) == MOST


def test_live_bytes_count_what_is_alive_at_the_same_time() -> None:
    given = torch.zeros(100)
    with LiveBytes() as live:
        view = given[:50]
        one = torch.ones(1000)
        one.add_(1)
        del one
        two, three = torch.ones(10), torch.ones(20)
        del view, two, three
    assert live.peak == FLOAT * 1000


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
    need = refuse_too_large(attacked_in(audit), CPU)  # of a system that does not tell nothing is asked
    (system / "meminfo").write_text("MemAvailable:   4 kB\nSwapFree:  0 kB\n")
    sentence = (
        f"6 pictures of 3 x 4 x 4 need about {amount(need.bytes)} of memory with none and unveil, and 4 KiB are free; "
        "take fewer pictures with `batch`, smaller ones with `size`, or a machine with more memory"
    )
    with pytest.raises(UsageError, match=re.escape(sentence)):
        refuse_too_large(attacked_in(audit), CPU)


def test_several_trials_at_once_need_more(system: Path) -> None:
    audit = Audit(clients=[client()], obfuscations=[obfuscations.parse("none")], attacks=[attacks.parse("unveil")])
    need = refuse_too_large(attacked_in(audit), CPU).bytes
    (system / "meminfo").write_text(f"MemAvailable:   {3 * need // 1024} kB\nSwapFree:  0 kB\n")
    refuse_too_large(attacked_in(audit), CPU, at_once=2)
    with pytest.raises(UsageError, match=r"in each of 4 workers, and .* are free; run fewer workers, take fewer"):
        refuse_too_large(attacked_in(audit), CPU, at_once=4)


def test_the_largest_trial_counts() -> None:
    audit = Audit(
        clients=[client(), dataclasses.replace(client(pictures=4), name="other")],
        obfuscations=[obfuscations.parse("none"), obfuscations.parse("svt:fraction=0.5,noise_var=2,gamma=0.01")],
        attacks=[attacks.parse("rog")],
    )
    need = largest_need(attacked_in(audit))
    assert need.bytes > largest_need(list(attacked_in(audit))[:1]).bytes
    assert need.obfuscation.startswith("svt")
    assert need.sentence.startswith(f"Memory: about {amount(need.bytes)} at the peak")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "check", "advise"])
def test_commands_refuse_before_anything_is_run(
    command: str, system: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(system)
    (system / "meminfo").write_text("MemAvailable:   4 kB\nSwapFree:  0 kB\n")
    file = "advise.toml" if command == "advise" else "mine.toml"
    if command == "advise":
        with pytest.raises(SystemExit):
            main(["init", "--advise"])
    else:
        (system / file).write_text('[[client]]\nname = "mine"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n')
    with pytest.raises(SystemExit) as left:
        main([command, file])
    assert left.value.code == 2
    assert "and 4 KiB are free" in capsys.readouterr().err
    assert not (system / "audits").exists()
    assert not (system / "advice").exists()
