"""Who ran an audit, when and with which command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unveil.audits import noting
from unveil.audits.noting import note_run, read_runs
from unveil.core.errors import UsageError
from unveil.core.runs import Run, decoded, encoded


class Monday(noting.datetime.date):
    @classmethod
    def today(cls) -> Monday:
        return cls(2026, 11, 30)


@pytest.fixture(autouse=True)
def on_a_monday(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noting.datetime, "date", Monday)


def test_a_run_is_noted_once_a_day(tmp_path: Path) -> None:
    note_run(tmp_path, command="unveil audit a.toml", author="Ada")
    note_run(tmp_path, command="unveil audit a.toml", author="Ada")
    note_run(tmp_path, command="unveil audit a.toml --set seeds=[0,1]", author="Ada")
    assert read_runs(tmp_path) == [
        Run(command="unveil audit a.toml", date="2026-11-30", author="Ada"),
        Run(command="unveil audit a.toml --set seeds=[0,1]", date="2026-11-30", author="Ada"),
    ]
    assert (tmp_path / "runs.json").stat().st_mode & 0o077 == 0  # only its owner may read it


def test_a_folder_without_the_file_has_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'[{"command": 1, "date": "x"}]', b'[{"command": "x"}]', b"\xff"]
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runs.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"runs\.json cannot be read \(.*\); delete it; the report then does not name"):
        note_run(tmp_path, command="x", author="")


def test_a_command_that_is_no_text_survives() -> None:
    (run,) = decoded(encoded([Run(command="unveil audit \udcff.toml", date="2026-11-30")]))
    assert run.command == "unveil audit \\udcff.toml"
    assert json.loads(encoded([])) == []
