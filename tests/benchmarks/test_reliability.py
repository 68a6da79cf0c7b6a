"""Tiny campaigns of the benchmark on reliability, and that each of them can fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from benchmarks.hostile import cases, children, files, kills, power_cuts, results, strange_texts
from benchmarks.reliability import CAMPAIGNS, table, tried

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


@pytest.mark.slow
def test_strange_texts_are_refused_in_a_sentence(tmp_path: Path) -> None:
    found = strange_texts.specs(count=20)
    assert found["wrong"] == []
    assert found["texts"] == found.get("used", 0) + found.get("refused", 0) > 10


def ended(**changes: object) -> children.Ended:
    return children.Ended(**{"code": 2, "out": "Error: no\n", "seconds": 0.1, "mib": 1.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, ""),
        ({"code": 3}, "exit 3"),
        ({"code": None}, "exit None"),
        ({"out": "Error: no\nTraceback\n"}, "2 lines"),
        ({"out": "a line\nError: no\n"}, "2 lines"),
        ({"out": "client x: its loss is 3.1.\nError: no\n"}, ""),
        ({"out": "Error: \x1b[2J\n"}, "control characters"),
        ({"seconds": 1.1}, "1.1 s"),
        ({"mib": 250.0}, "250 MiB, the file has 10"),
    ],
)
def test_what_is_wrong_with_a_command_is_found(tmp_path: Path, how: dict[str, object], says: str) -> None:
    case = cases.Hostile(kind="files", name="one", args=(), make=lambda folder: None)
    found = files.wrong(case, ended(**how), tmp_path, size=10.0)
    assert found == [] if not says else says in found[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (cases.SECRET, "a secret is in the report"),
        ("root:x:0:0", "a secret is in the report"),
        ("<script>alert(1)</script>", "markup is in the report"),
        ("<img src=http://example.org>", "markup is in the report"),
    ],
)
def test_what_leaks_into_a_report_is_found(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "report.html").write_text(content)
    case = cases.Hostile(kind="files", name="one", args=(), make=lambda folder: None, codes=(0,))
    assert files.wrong(case, ended(code=0), tmp_path, size=1.0) == [says]
    (tmp_path / files.OWNED).touch()
    assert "code was run" in files.wrong(case, ended(code=0), tmp_path, size=1.0)


def test_every_record_of_nonsense_has_a_name_of_its_own() -> None:
    short = [(where, value) for where, value in results.NONSENSE if not isinstance(value, list) or len(value) < 9]
    names = [f"{where} {value!r}" for where, value in short]
    assert len(names) == len(set(names)) > 60
    assert len(results.PATHS) == len(set(results.PATHS.values())) > 10


def test_a_disk_holds_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for names in (False, True):
        left = tmp_path / f"left {names}"
        disk = power_cuts._Disk(out, left, 99, names)
        for name in ("kept", "empty"):
            (out / name).write_bytes(b"content")
        for path in (out / "kept", out, tmp_path):
            opened = os.open(path, os.O_RDONLY)
            disk.synced(opened)
            os.close(opened)
        (out / "kept").write_bytes(b"later, and not synced")
        (out / "late").write_bytes(b"content")
        disk.leave()
        assert (left / "kept").read_bytes() == b"content"
        assert (left / "empty").read_bytes() == b""
        assert (left / "late").exists() is names
        (out / "late").unlink()


def test_the_table_lists_what_went_wrong() -> None:
    one = {"texts": 3, "used": 1, "refused": 1, "wrong": [["KeyError: 'a'", "'text'"]]}
    text = table({"SPECs": one})
    assert "| strange SPECs | 3 | 1 |" in text
    assert "- strange SPECs: [\"KeyError: 'a'\", \"'text'\"]" in text
    assert tried("SPECs", one) == 3
    assert len({str(campaign) for campaign in CAMPAIGNS}) == len(CAMPAIGNS) == 5


@pytest.mark.slow
def test_tiny_campaigns_in_a_process_of_their_own(tmp_path: Path) -> None:
    import json
    import subprocess

    code = (
        "import json, sys; from pathlib import Path; from benchmarks.hostile import kills, power_cuts, files\n"
        "place = Path(sys.argv[1])\n"
        "print(json.dumps([kills.run(place / 'k', kills=2), power_cuts.run(place / 'p', cuts=1)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    killed, cut = json.loads(done.stdout.splitlines()[-1])
    assert killed["wrong"] == cut["wrong"] == []
    assert killed["SIGKILL"] + killed["SIGTERM"] + killed["SIGINT"] == 2
    assert cut["cuts"] == 1
    assert kills.SIGNALS
