"""A recorded update is attacked as the same update of a simulated client is, and files show no more than was asked."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unveil as uv
from audits.recorded.recordings import AVERAGED, made, recorded, save_truth, simulated
from fakes import Guess
from instances import first_of_each
from unveil.attacks import parse as parse_attack
from unveil.audits.controls import LABELS
from unveil.audits.recorded.audit import RecordedAudit
from unveil.audits.recorded.trial import run_recorded_trial
from unveil.audits.results import append, prepare, read_trials
from unveil.audits.running import run
from unveil.audits.trial import run_trial
from unveil.clients.training import FedAvg, FedSGD
from unveil.core.errors import UsageError
from unveil.core.pixels import blurred, eight_bit
from unveil.obfuscations import parse
from unveil.report import write_report
from unveil.report.levels import Level
from unveil.report.pooling import summarise

ATTACK = parse_attack("inverting_gradients:steps=3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "facts"), [(FedSGD(), {}), (FedAvg(steps=3, lr=0.05), AVERAGED)], ids=["fedsgd", "fedavg"]
)
def test_a_recorded_update_is_attacked_as_that_of_the_simulated_client(
    training: Any, facts: dict[str, Any], tmp_path: Path
) -> None:
    sender = simulated(training)
    path = recorded(tmp_path, sender, labels=sender.labels.tolist(), obfuscation="none", **facts)
    client = made(path, truth=save_truth(tmp_path, sender))
    trial = run_recorded_trial(client, ATTACK)
    other = run_trial(sender, parse("none"), ATTACK, controls=(LABELS,))
    assert torch.equal(trial.pictures["attack"], other.pictures["attack"])
    assert trial.pictures["original"].allclose(other.pictures["original"])
    assert trial.scores == other.scores
    assert trial.outcomes["attack"].controls[LABELS] == other.outcomes["attack"].controls[LABELS]
    assert trial.settings["training"] == other.settings["training"]
    assert trial.settings["threat_model"] == "everything known"
    assert trial.settings["recording"] == client.digest


def test_without_the_originals_explained_shares_and_a_rehearsal_are_left(tmp_path: Path) -> None:
    sender = simulated()
    client = made(recorded(tmp_path, sender, labels=sender.labels.tolist()))
    truth = run_recorded_trial(client, Guess(images=sender.images)).outcomes["attack"].plausibility
    grey = run_recorded_trial(client, Guess(images=torch.full((4, 3, 16, 16), 0.5))).outcomes["attack"].plausibility
    assert truth is not None
    assert grey is not None
    assert truth.explained == pytest.approx(1, abs=1e-4)
    assert grey.explained == pytest.approx(0, abs=1e-3)  # as files have it, grey is 128 of 255
    assert truth.control == truth.explained  # this attack answers the same to every update
    assert grey.rehearsal["psnr"] == pytest.approx(grey.rehearsal_blind["psnr"], abs=0.1)
    assert len(truth.rehearsal["psnr"]) == 4


@pytest.mark.slow
def test_a_trial_without_originals_is_no_verdict_but_a_sentence(tmp_path: Path) -> None:
    client = made(recorded(tmp_path, simulated()))
    trial = run_recorded_trial(client, ATTACK)
    assert trial.scores == trial.blind == {}
    (row,) = summarise([trial])
    assert row.pictures == 4
    assert row.verdict.level is Level.INCONCLUSIVE
    assert row.verdict.sentence.startswith("Without the originals no picture can be scored, so look at them beside")
    assert "of the update (median over its tensors; grey pictures explain 0%)" in row.verdict.sentence
    assert "Those synthetic pictures themselves it rebuilds from their update with" in row.verdict.sentence
    assert row.verdict.caveats == ()


@pytest.mark.slow
def test_with_originals_the_plausibility_is_among_the_reasons(tmp_path: Path) -> None:
    sender = simulated()
    client = made(recorded(tmp_path, sender), truth=save_truth(tmp_path, sender))
    (row,) = summarise([run_recorded_trial(client, ATTACK)])
    assert row.verdict.reasons[0].startswith("The pictures explain ")
    assert any(reason.startswith("PSNR is ") for reason in row.verdict.reasons)


def test_the_attack_never_meets_the_originals(tmp_path: Path) -> None:
    sender = simulated()
    attack = Guess()
    run_recorded_trial(made(recorded(tmp_path, sender), truth=save_truth(tmp_path, sender)), attack)
    own, control = attack.granted
    assert own is control
    assert own.labels is None
    assert not any(isinstance(value, torch.Tensor) for value in vars(own).values())


def audit_of(tmp_path: Path, **options: Any) -> RecordedAudit:
    sender = simulated()
    truth = save_truth(tmp_path, sender)
    return RecordedAudit(clients=[made(recorded(tmp_path, sender), truth=truth)], attacks=[Guess()], **options)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("images", first_of_each(["blurred", "none", "full"]))
def test_files_show_what_was_asked_for_and_to_the_owner_alone(images: Any, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    trials = run(audit_of(tmp_path, images=images), folder)
    page = write_report(folder, trials)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(folder)} == {0o600}
    assert read_trials(folder) == trials
    pictures = [path for path in files(folder) if path.suffix == ".png"]
    text = page.read_text()
    assert len(pictures) == text.count("data:image/png") == (0 if images == "none" else 8)
    original = eight_bit(simulated().images)
    expected = {"full": original, "blurred": eight_bit(blurred(original)), "none": original[:0]}[images]
    there = [torch.from_numpy(np.array(Image.open(path))) for path in pictures if path.name.startswith("original")]
    for shown, wanted in zip(there, expected, strict=True):
        assert torch.equal(shown.permute(2, 0, 1), (wanted * 255).round().byte())
    note = {"none": "No picture was kept.", "blurred": "Pictures are blurred", "full": ""}[images]
    assert note in text


def test_a_page_without_originals_shows_the_pictures_by_confidence_and_no_empty_frames(tmp_path: Path) -> None:
    trial = run_recorded_trial(made(recorded(tmp_path, simulated())), Guess())
    outcome = replace(trial.outcomes["attack"], confidence=[0.25, 4.0, 1.0, 2.0])
    prepare(tmp_path, {})
    trial = append(tmp_path, replace(trial, outcomes={"attack": outcome}))
    page = write_report(tmp_path, [trial]).read_text()
    assert re.findall(r"<figcaption>([^<]*)</figcaption>", page) == ["4", "2", "1", "0.25"]
    assert 'class="absent"' not in page
    assert "under each picture the attack's confidence" in page
    assert "Not scored, because the originals are not at hand: the pictures that were rebuilt explain" in page


def test_no_file_but_pictures_holds_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    run(audit_of(tmp_path, images="none"), folder)
    (line,) = (folder / "results.jsonl").read_text().splitlines()

    def longest(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return max([len(value) if isinstance(value, list) else 0, *map(longest, inner)])

    assert longest(json.loads(line)) < 3 * 16 * 16
    assert longest(json.loads((folder / "audit.json").read_text())) < 3 * 16 * 16


@pytest.mark.slow
def test_an_audit_goes_on_where_it_stopped_and_another_recording_is_refused(tmp_path: Path) -> None:
    folder, attack = tmp_path / "results", Guess()
    sender = simulated()
    audit = RecordedAudit(clients=[made(recorded(tmp_path, sender))], attacks=[attack], seeds=(0, 1))
    assert len(audit) == 2
    first = run(audit, folder)
    assert len(attack.granted) == 4
    assert run(audit, folder) == first
    assert len(attack.granted) == 4
    changed = RecordedAudit(clients=[made(recorded(tmp_path, sender, round=1))], attacks=[attack], seeds=(0, 1))
    with pytest.raises(UsageError, match="holds the results of other settings: recordings"):
        run(changed, folder)
    records = uv.results(folder)
    assert len(records) == 2 * 4
    assert {record["recording"] for record in records} == {audit.clients[0].digest}


def test_what_an_audit_cannot_run_is_refused(tmp_path: Path) -> None:
    client = made(recorded(tmp_path, simulated()))
    with pytest.raises(UsageError, match="update is given twice in clients"):
        RecordedAudit(clients=[client, client], attacks=[Guess()])
    with pytest.raises(UsageError, match="expected seeds of at least 0, got -1"):
        RecordedAudit(clients=[client], attacks=[Guess()], seeds=(-1,))
