"""Parts of an audit, and joining their folders."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audits.parallel import an_audit
from fakes import Named
from instances import first_of_each
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.folder_settings import read_settings
from unveil.audits.merging import merge
from unveil.audits.order import in_order
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.audits.shard import Shard, ShardedAudit
from unveil.audits.task import Task
from unveil.audits.trial_pictures import is_whole
from unveil.core.arithmetic import using
from unveil.core.errors import UsageError
from unveil.core.locks import locked


@pytest.fixture(scope="module")
def audit() -> Audit:
    return an_audit(Named(), Named(tag="b"), seeds=(0, 1, 2))  # 12 trials


@pytest.fixture(scope="module")
def halves(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of both halves, read by tests and never changed."""
    place = tmp_path_factory.mktemp("halves")
    for number in (1, 2):
        run(ShardedAudit(audit=audit, shard=Shard(number=number, count=2)), place / str(number), command=f"{number}")
    return place / "1", place / "2"


def names(tasks: list[Task]) -> list[tuple[str, str, int]]:
    return [(task.settings["obfuscation"], task.settings["attack"], task.seed) for task in tasks]


@pytest.mark.parametrize("count", first_of_each([5, 1, 2, 7, 12]))
def test_each_trial_is_in_one_part_and_parts_are_even(audit: Audit, count: int) -> None:
    parts = [ShardedAudit(audit=audit, shard=Shard(number=number + 1, count=count)) for number in range(count)]
    tasks = [names(list(part.tasks())) for part in parts]
    whole = names(list(audit.tasks()))
    assert sorted(itertools.chain.from_iterable(tasks)) == sorted(whole)
    assert {len(part) for part in parts} <= {12 // count, 12 // count + 1}
    assert all(some == [name for name in whole if name in some] for some in tasks)  # in the order of the audit
    assert all(part.settings() == audit.settings() for part in parts)


def test_parts_are_the_same_on_processors_with_another_arithmetic() -> None:
    part = ShardedAudit(audit=an_audit(parse_attack("unveil"), seeds=tuple(range(10))), shard=Shard.parse("2/3"))
    found = {}
    for arithmetic in ("float32", "bfloat16"):
        with using(arithmetic):
            tasks = list(part.tasks())
        assert {task.settings["arithmetic"] for task in tasks} == {arithmetic}
        found[arithmetic] = names(tasks)
    assert found["float32"] == found["bfloat16"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "expected I/N, such as 2/4"),
        ("1/2/3", "expected I/N"),
        ("-1/2", "expected I/N"),
        ("0/4", "expected a part from 1 to 4; count parts from 1"),
        ("5/4", "expected a part from 1 to 4"),
        ("1/0", "expected a part from 1 to 1"),
    ],
)
def test_parts_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--shard {text}: {message}"):
        Shard.parse(text)


def test_more_parts_than_trials_are_refused(audit: Audit) -> None:
    with pytest.raises(UsageError, match="--shard 1/13: the audit has only 12 trials; use at most as many parts"):
        ShardedAudit(audit=audit, shard=Shard.parse("1/13"))


@pytest.mark.slow
def test_joined_parts_are_what_one_audit_gives(audit: Audit, halves: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = merge(halves[:1], out)
    assert len(first) == 6
    joined = merge((*halves, halves[0]), out)  # the first is there
    assert [(t.settings["obfuscation"], t.settings["attack"], t.seed) for t in joined] == names(list(audit.tasks()))
    assert all(is_whole(out, trial) for trial in joined)
    assert all(trial.checksums for trial in joined)
    assert (out / "results.jsonl").read_bytes().count(b"\n") == 12
    assert [entry["command"] for entry in json.loads((out / "runs.json").read_text())] == ["1", "2"]
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(audit, out, lambda progress: pytest.fail("nothing is left to be run")) == joined
    assert merge(halves, out) == joined
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert out.stat().st_mode & 0o777 == 0o700
    alone = {trial.seed: trial.scores for trial in joined if trial.settings["obfuscation"] == "sign"}
    run(replace(audit, attacks=[Named(tag="b")]), tmp_path / "alone")
    there = read_trials(tmp_path / "alone")
    assert {t.seed: t.scores for t in there if t.settings["obfuscation"] == "sign"} == alone


def changed(folder: Path, to: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(folder, to)
    change(to)
    return to


def in_file(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert before in text
        (folder / name).write_text(text.replace(before, after))

    return change


def test_what_does_not_fit_is_refused_before_anything_is_written(halves: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    weights = read_settings(halves[0], fix="")["clients"][0]["weights"]
    other = changed(halves[1], tmp_path / "other", in_file("audit.json", weights, "0" * 12))
    says = rf"hold the results of different audits: clients\.client\.weights is {weights} in the first and 0+ in"
    with pytest.raises(UsageError, match=says):
        merge((halves[0], other), out)
    line = read_trials(halves[0])[0]
    worse = changed(halves[0], tmp_path / "worse", in_file("results.jsonl", str(line.scores["psnr"][0]), "3.25"))
    says = rf"seed {line.seed}, has different scores in .* and .*worse; leave one of the two folders out"
    with pytest.raises(UsageError, match=says):
        merge((halves[0], worse), out)
    with pytest.raises(UsageError, match=r"absent is not a folder; give the --out folder"):
        merge((tmp_path / "absent",), out)
    with pytest.raises(UsageError, match="is also the folder of --out, whose trials count anyway; leave it out"):
        merge(halves, halves[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"audit\.json"):
        merge((halves[0], tmp_path / "empty"), out)
    with (
        locked(halves[1], fix=""),
        pytest.raises(UsageError, match=r"another process is writing .*; wait until"),
    ):
        merge(halves, out)
    assert not out.exists()


def test_a_picture_outside_its_trials_folder_is_not_copied(halves: tuple[Path, Path], tmp_path: Path) -> None:
    path = read_trials(halves[0])[0].originals[0]
    key = path.split("/")[1]

    def move(folder: Path) -> None:
        (folder / "images" / "elsewhere").mkdir()
        (folder / path).rename(folder / "images" / "elsewhere" / Path(path).name)
        in_file("results.jsonl", path, path.replace(key, "elsewhere"))(folder)

    moved = changed(halves[0], tmp_path / "moved", move)
    with pytest.raises(UsageError, match=rf"the picture 'images/elsewhere/.*' does not lie in images/{key}/"):
        merge((moved,), tmp_path / "out")
    assert not (tmp_path / "out" / "images" / "elsewhere").exists()


def test_damaged_trials_are_left_out_and_versions_that_differ_announced(
    audit: Audit, halves: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = read_trials(halves[1])[0]
    damaged = changed(halves[1], tmp_path / "damaged", lambda folder: (folder / trial.originals[0]).write_bytes(b""))
    threads = f'"threads":"{trial.versions["threads"]}"'
    in_file("results.jsonl", threads, '"threads":"99"')(damaged)
    joined = merge((halves[0], damaged), tmp_path / "out")
    assert len(joined) == 11
    assert "pictures of 1 of 6 trials are missing or damaged; these trials are left out" in caplog.text
    assert f"not all trials were computed alike (threads {trial.versions['threads']} and 99)" in caplog.text
    ran: list[int] = []
    run(audit, tmp_path / "out", lambda progress: ran.append(progress.seed) if progress.trial else None)
    assert ran == [trial.seed]


def test_the_order_of_a_folder_is_that_of_its_audit_whatever_its_settings_hold(
    audit: Audit, halves: tuple[Path, Path]
) -> None:
    trials = [trial for half in halves for trial in read_trials(half)]
    ordered = in_order(trials, audit.settings())
    assert [(t.settings["obfuscation"], t.settings["attack"], t.seed) for t in ordered] == names(list(audit.tasks()))
    assert in_order(trials, {}) == trials
    assert (
        in_order(trials, {"clients": [3, {"name": []}], "attacks": "named", "seeds": [None], "recordings": {}})
        == trials
    )
