"""Where an audit file lies, found from the command that a results folder keeps; anybody may have written it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unveil.cli.audited_file import places
from unveil.gate.places import Place

TEXT = 'obfuscations = [\n  "topk:density=.05",\n  "no.such.module:Thing",\n  "fp16 + nf4",\n]\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder beside `an audit.toml`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("an audit.toml").write_text(TEXT, encoding="utf-8")
    Path("out").mkdir()
    return Path("out")


def ran(folder: Path, *commands: str) -> None:
    runs = [{"command": command, "date": "2026-11-30", "author": ""} for command in commands]
    (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")


FILE = Place(uri="an%20audit.toml", is_relative=True)
FOLDER = Place(uri="out/audit.json", is_relative=True)


@pytest.mark.parametrize(
    "command",
    [
        "unveil audit 'an audit.toml'",
        "unveil audit --out out --set seeds=[1] 'an audit.toml' --json",
        "unveil audit './nowhere/../an audit.toml' --lpips-weights x",
    ],
)
def test_the_file_of_the_command_is_found_with_its_lines(folder: Path, command: str) -> None:
    ran(folder, command)
    found = places(folder, ["topk:density=0.05", "no.such.module:Thing", "fp16+nf4", "sign"])
    assert found == {
        "": FILE,
        "topk:density=0.05": Place(uri=FILE.uri, is_relative=True, line=2),
        "no.such.module:Thing": Place(uri=FILE.uri, is_relative=True, line=3),
        "fp16+nf4": Place(uri=FILE.uri, is_relative=True, line=4),
        "sign": Place(uri=FILE.uri, is_relative=True, line=1),
    }


def test_a_full_path_inside_the_current_folder_is_told_relative_to_it(folder: Path, tmp_path: Path) -> None:
    ran(folder, f"unveil audit '{tmp_path}/an audit.toml'")
    assert places(folder, [])[""] == FILE


def test_the_newest_command_whose_file_is_there_counts(folder: Path) -> None:
    Path("other.toml").write_text(TEXT, encoding="utf-8")
    ran(folder, "unveil audit other.toml", "unveil audit 'an audit.toml'", "unveil audit gone.toml", "unveil demo")
    assert places(folder, [])[""] == FILE


@pytest.mark.parametrize(
    "command",
    [
        "",
        "unveil",
        "unveil audit",
        "unveil audit 'an audit.toml",
        "unveil audit --option-of-a-later-version 'an audit.toml' --seed x",
        "rm 'an audit.toml'",
        "unveil audit ../elsewhere.toml",
        "unveil audit out",
        "unveil audit /etc/passwd",
        "unveil audit 'a\x00b.toml'",
    ],
)
def test_without_such_a_file_the_place_is_the_folders_own(folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path.parent / "elsewhere.toml").write_text(TEXT, encoding="utf-8")
    ran(folder, command)
    found = places(folder, ["fp16"])
    assert found == {"": FOLDER}


def test_a_folder_without_runs_and_one_elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(folder, ["fp16"]) == {"": FOLDER}
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    uri = (tmp_path / "out" / "audit.json").as_uri()
    assert places(Path("../out"), ["fp16"]) == {"": Place(uri=uri, is_relative=False)}


def test_a_recorded_update_and_a_file_that_is_no_text_have_no_lines(folder: Path) -> None:
    Path("update.safetensors").write_text(TEXT, encoding="utf-8")
    ran(folder, "unveil audit update.safetensors --model mine:Net")
    assert places(folder, ["none"])["none"] == Place(uri="update.safetensors", is_relative=True)
    Path("an audit.toml").write_bytes(b'obfuscations = ["fp16"] # \xff')
    ran(folder, "unveil audit 'an audit.toml'")
    assert places(folder, ["fp16"])["fp16"] == FILE
