"""`unveil audit` of recorded updates: what it prints, what it writes, and every option that does not fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from audits.recorded.recordings import AVERAGED, MODEL, recorded, save_truth, simulated
from cli.test_app import Answer, Call, call
from seeds import seeded
from unveil.audits import memory
from unveil.audits.results import read_trials
from unveil.clients.training import FedAvg
from unveil.core.pixels import png_of

__all__ = ["call"]

QUICK = ("--attack", "inverting_gradients:steps=2")


@pytest.fixture
def update(tmp_path: Path) -> Path:
    """A recorded update, `update.safetensors`, with its pictures beside it in `truth/`."""
    sender = simulated(FedAvg(steps=3, lr=0.05))
    save_truth(tmp_path, sender)
    return recorded(tmp_path, sender, **AVERAGED, obfuscation="none", client="clinic")


def refused(answer: Answer, says: str) -> None:
    assert answer.code == 2
    assert re.search(says, answer.err), answer.err
    assert sum(not line.startswith("Memory: ") for line in answer.err.splitlines()) == 1


@pytest.mark.slow
def test_a_recorded_update_is_audited_with_and_without_its_pictures(call: Call, update: Path) -> None:
    answer = call("audit", update.name, "--model", MODEL, *QUICK)
    assert answer.code == 0
    assert answer.out.startswith(
        "Not scored, because the originals are not at hand: the pictures that were rebuilt explain "
    )
    assert "Report: audits/update/report.html" in answer.out
    answer = call(
        "audit", update.name, "--model", MODEL, *QUICK, "--truth", "truth", "--out", "with", "--images", "full"
    )
    assert answer.code == 0
    (trial,) = read_trials(Path("with"))
    assert set(trial.scores) >= {"psnr", "ssim"}
    assert "reid_rank" not in trial.scores
    assert trial.settings["threat_model"] == "labels unknown"
    answer = call("report", "with")
    assert answer.code == 0


@pytest.mark.slow
def test_facts_seeds_and_a_folder(call: Call, update: Path) -> None:
    Path("round").mkdir()
    for name in ("a", "b"):
        Path("round", f"{name}.safetensors").write_bytes(update.read_bytes())
    facts = ("--fact", "learning_rate=unknown", "--fact", "labels=[1, 2, 3, 4]", "--fact", "client=unknown")
    answer = call("audit", "round", "--model", MODEL, *QUICK, *facts, "--seed", "0", "--seed", "3", "--json")
    assert answer.code == 0
    trials = json.loads(answer.out)["trials"]
    assert [(trial["settings"]["client"], trial["seed"]) for trial in trials] == [
        ("a", 0),
        ("a", 3),
        ("b", 0),
        ("b", 3),
    ]
    assert {trial["settings"]["threat_model"] for trial in trials} == {"training unknown"}
    assert Path("audits/round").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_originals_are_looked_for_among_decoys(call: Call, update: Path) -> None:
    Path("others").mkdir()
    for number in range(3):
        pixels = torch.rand((3, 16, 16), generator=seeded(90 + number))
        Path("others", f"{number}.png").write_bytes(png_of(pixels))
    options = ("--model", MODEL, *QUICK, "--truth", "truth")
    assert call("audit", update.name, *options, "--decoys", "others").code == 0
    (trial,) = read_trials(Path("audits/update"))
    assert all(1 <= rank <= 4 for rank in trial.scores["reid_rank"])
    assert set(trial.outcomes["attack"].controls["labels only"]) >= {"reid_rank", "reid_top1"}
    Path("others", "0.png").write_bytes(png_of(torch.zeros(3, 16, 16)))
    refused(call("audit", update.name, *options, "--decoys", "others"), "results of other settings: decoys was")


def test_a_recorded_update_that_does_not_fit_is_refused(
    call: Call, update: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:   4 kB\nSwapFree:  0 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    answer = call("audit", update.name, "--model", MODEL, *QUICK)
    refused(answer, "of memory with .* and inverting_gradients:.*, and 4 KiB are free; take a machine with more")


@pytest.mark.slow
def test_clients_of_one_name_are_told_apart_by_their_files(call: Call, update: Path) -> None:
    Path("round").mkdir()
    for name in ("a", "b"):
        Path("round", f"{name}.safetensors").write_bytes(update.read_bytes())
    assert call("audit", "round", "--model", MODEL, *QUICK, "--images", "none").code == 0
    names = [trial.settings["client"] for trial in read_trials(Path("audits/round"))]
    assert names == ["clinic (a.safetensors)", "clinic (b.safetensors)"]


@pytest.mark.slow
def test_each_of_several_clients_has_its_own_pictures(call: Call, update: Path) -> None:
    Path("round").mkdir()
    for name in ("a", "b"):
        Path("round", f"{name}.safetensors").write_bytes(update.read_bytes())
    options = ("--model", MODEL, *QUICK, "--images", "none", "--truth")
    refused(call("audit", "round", *options, "truth"), "--truth truth/a is no folder; name the folder")
    Path("all").mkdir()
    for name in ("a", "b"):
        shutil.copytree("truth", Path("all", name))
    assert call("audit", "round", *options, "all").code == 0
    assert all("psnr" in trial.scores for trial in read_trials(Path("audits/round")))


def test_a_folder_without_recorded_updates_is_taken_for_an_audit_file(call: Call) -> None:
    Path("empty").mkdir()
    refused(call("audit", "empty"), "empty is a folder, expected a regular file; give a TOML file")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "does not hold the client's network; name it with --model package.module:factory"),
        (("--model", MODEL, "--set", "a=1"), "--set is for audit files, and update.safetensors is a recorded update"),
        (("--model", MODEL, "--variant", "a"), "--variant is for audit files"),
        (("--model", MODEL, "--enhancer", "sharp"), "--enhancer is for audit files"),
        (("--model", MODEL, "--lpips-weights", "none.npz"), "none.npz does not exist"),
        (("--model", MODEL, "--fact", "steps"), "--fact steps: expected NAME=VALUE, such as examples=8"),
        (("--model", MODEL, "--fact", "step=1"), "there is no fact 'step'; did you mean 'steps'"),
        (("--model", MODEL, "--fact", "steps=0"), "expected steps as a whole number from 1 .*; docs/format.md lists"),
        (("--model", MODEL, "--fact", "client=2020-01-01"), "--fact: .*; docs/format.md lists the facts"),
        (("--model", MODEL, "--global", "update.safetensors"), "has weights of its own before local training"),
        (("--model", "none_such:Net"), "none_such"),
        (("--model", MODEL, "--decoys", "none"), "--decoys none is no folder; name the folder that holds the pictures"),
        pytest.param(
            ("--model", MODEL, "--truth", "truth", "--decoys", "truth", *QUICK),
            "decoy 0 is picture 0 of the batch",
            marks=pytest.mark.slow,
        ),
        (("--model", MODEL, "--attack", "none_such"), "unknown attack 'none_such'"),
    ],
)
def test_what_does_not_fit_a_recorded_update_is_refused(
    call: Call, update: Path, options: tuple[str, ...], says: str
) -> None:
    refused(call("audit", update.name, *options), says)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model", "lenet"),
        ("--truth", "."),
        ("--decoys", "."),
        ("--fact", "a=1"),
        ("--weights", "a.pt"),
        ("--global", "a.pt"),
        ("--attack", "rog"),
        ("--seed", "0"),
    ],
)
def test_what_does_not_fit_an_audit_file_is_refused(call: Call, option: str, value: str) -> None:
    says = f"{option} is for recorded updates, and audit.toml is an audit file; leave it out"
    refused(call("audit", "audit.toml", option, value), says)
