"""Which pictures a results folder keeps, and how it finds out that some are lost."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import Counting, Guess
from instances import first_of_each
from unveil.audits.audit import Audit
from unveil.audits.kept_pictures import check_kept, keeping
from unveil.audits.results import RESULTS, read_trials
from unveil.audits.running import run
from unveil.audits.trial import run_trial
from unveil.audits.trial_pictures import is_whole
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.files import write_whole
from unveil.core.locks import locked
from unveil.core.pixels import blurred
from unveil.core.records import Trial
from unveil.obfuscations import parse as parse_obfuscation
from unveil.report.html import write_report
from unveil.report.notice import notice


@pytest.fixture(scope="module")
def client() -> Client:
    return make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


@pytest.fixture
def attack() -> Counting:
    return Counting()


def an_audit(client: Client, attack: Any, **options: Any) -> Audit:
    return Audit(clients=[client], obfuscations=[parse_obfuscation("sign")], attacks=[attack], **options)


def plain(trial: Trial) -> Trial:
    """The trial without what differs between two runs of the same."""
    outcomes = {name: dataclasses.replace(outcome, seconds=0.0) for name, outcome in trial.outcomes.items()}
    return dataclasses.replace(trial, outcomes=outcomes, peak_mib=None)


def test_pictures_are_kept_as_asked(client: Client) -> None:
    trial = run_trial(client, parse_obfuscation("none"), Guess(images=client.batch.images))
    none, coarse = keeping(trial, "none"), keeping(trial, "blurred")
    assert keeping(trial, "full") is trial
    assert none.pictures == {}
    assert none.outcomes["attack"].notes[-1] == "No picture was kept."
    assert torch.equal(coarse.pictures["original"], blurred(trial.pictures["original"]))
    assert coarse.outcomes["attack"].notes[-1].startswith("Pictures are blurred")
    assert none.scores == coarse.scores == trial.scores


def test_a_blurred_picture_holds_the_means_of_its_areas_and_nothing_else() -> None:
    images = torch.rand(2, 3, 24, 24)
    areas = images.reshape(2, 3, 6, 4, 6, 4).mean((3, 5))
    other = areas.repeat_interleave(4, 2).repeat_interleave(4, 3) + 0.001 * torch.randn(2, 3, 24, 24)
    assert torch.allclose(blurred(images), blurred(other), atol=0.01)
    assert not torch.allclose(blurred(images), images, atol=0.1)


@pytest.mark.parametrize(("images", "pictures"), first_of_each([("blurred", 8), ("none", 0), ("full", 8)]))
def test_an_audit_of_simulated_clients_keeps_what_was_asked_for(
    client: Client, attack: Counting, tmp_path: Path, images: Any, pictures: int
) -> None:
    private = dataclasses.replace(client, source="mine")
    audit = an_audit(private, attack, images=images)
    page = write_report(tmp_path / "out", run(audit, tmp_path / "out")).read_text()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sum(path.suffix == ".png" for path in files) == pictures
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert page.count("data:image/png") == pictures - pictures // 4  # the originals of both trials are the same
    assert ("These results hold the private pictures of client." in page) is bool(pictures)
    assert audit.settings().get("images", "full") == images


def test_other_words_for_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="expected images of none, blurred, full, got 'sharp'; use one of them"):
        check_kept("sharp")


def test_public_pictures_need_no_notice_and_several_clients_are_not_named(
    client: Client, attack: Counting, tmp_path: Path
) -> None:
    (first, *_) = run(an_audit(client, attack), tmp_path)
    assert notice([first]) == ""
    mine = [
        dataclasses.replace(first, settings={**first.settings, "images": "mine", "client": name}) for name in ("a", "b")
    ]
    assert "the private pictures of a." in notice(mine[:1])
    assert "the private pictures of clients." in notice(mine)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "other pixels": lambda path: path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX")),
    "lost": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.with_suffix(".kept")), path.symlink_to(path.with_suffix(".kept").name)),
    "folder lost": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_trial_with_lost_pictures_is_run_again_and_this_is_said(
    client: Client, attack: Counting, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    audit = an_audit(client, attack)
    before = run(audit, tmp_path)
    runs = len(attack.calls)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    DAMAGES[damage](tmp_path / before[1].outcomes["attack"].images[1])
    assert [is_whole(tmp_path, trial) for trial in before] == [True, False]
    with caplog.at_level(logging.WARNING):
        again = run(audit, tmp_path)
    assert len(attack.calls) == runs + 1
    assert "pictures of 1 of 2 trials are missing or damaged; these trials are run again" in caplog.text
    assert [plain(trial) for trial in again] == [plain(trial) for trial in before]
    assert [plain(trial) for trial in read_trials(tmp_path)] == [plain(trial) for trial in before]
    assert {path: path.read_bytes() for path in files} == files
    caplog.clear()
    run(audit, tmp_path)
    assert len(attack.calls) == runs + 1
    assert caplog.text == ""


def test_a_record_without_checksums_needs_whole_files(client: Client, attack: Counting, tmp_path: Path) -> None:
    (trial, _) = run(an_audit(client, attack), tmp_path)
    former = dataclasses.replace(trial, checksums={})
    path = tmp_path / trial.originals[0]
    assert is_whole(tmp_path, former)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(tmp_path, former)


def test_the_pictures_are_on_the_disk_before_the_line(
    client: Client, attack: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str) -> None:
        real = getattr(__import__("unveil.core.files", fromlist=[name]), name)
        module = "trial_pictures" if name == "write_several" else "results"
        monkeypatch.setattr(
            f"unveil.audits.{module}.{name}", lambda *args, **kw: (real(*args, **kw), order.append(name))
        )

    noted("write_several")
    noted("append_whole")
    run(an_audit(client, attack), tmp_path)
    assert order == ["write_several", "write_several", "append_whole"] * 2


def test_only_one_process_writes_into_a_folder(client: Client, attack: Counting, tmp_path: Path) -> None:
    with locked(tmp_path, fix=""), pytest.raises(UsageError, match=r"another process is writing into .*--out"):
        run(an_audit(client, attack), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(run(an_audit(client, attack), tmp_path)) == 2


@pytest.mark.parametrize("what", ["folder", RESULTS])
def test_a_folder_that_is_deleted_meanwhile_is_no_success(
    client: Client, attack: Counting, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "out"

    def deleted(progress: Any) -> None:
        if progress.trial is not None:
            shutil.rmtree(out) if what == "folder" else (out / what).unlink()

    with pytest.raises(UsageError, match=re.escape(f"{out / RESULTS} was deleted while the audit ran; run the same")):
        run(an_audit(client, attack), out, deleted)
    assert out.exists() is (what != "folder")


def test_pictures_are_not_written_through_a_link(client: Client, attack: Counting, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to("../elsewhere")
    with pytest.raises(UsageError, match="images is a link, which could lead out of the folder; delete it"):
        run(an_audit(client, attack), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_report_embeds_nothing_from_elsewhere(client: Client, attack: Counting, tmp_path: Path) -> None:
    trials = run(an_audit(client, attack), tmp_path)
    write_whole(tmp_path / "secret.json", b'{"a": "TOP SECRET"}')
    (tmp_path / "audit.json").unlink()
    (tmp_path / "audit.json").symlink_to("secret.json")
    assert "TOP SECRET" not in write_report(tmp_path, trials).read_text()
