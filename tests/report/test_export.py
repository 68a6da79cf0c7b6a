"""Rows as data, and as a table for spreadsheets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes import with_attack
from unveil.audits.tabular import write_scores
from unveil.core.errors import UsageError
from unveil.core.records import Trial
from unveil.core.spreadsheets import csv_of
from unveil.report import summarise
from unveil.report.export import summary, write_summary

MakeTrial = Callable[..., Trial]
PSNR = [20.0, 22.0, 24.0, 26.0]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def with_controls(trial: Trial) -> Trial:
    controls = {"another client": {"psnr": [12.0] * 4}, "labels only": {"psnr": [13.0] * 4}}
    return with_attack(trial, controls=controls)


def test_a_row_is_plain_json_with_verdict_mean_interval_and_controls(trial: MakeTrial) -> None:
    rows = summarise([with_controls(trial(psnr=PSNR, seed=seed)) for seed in (0, 1)])
    (found,) = json.loads(json.dumps(summary(rows)))
    assert (found["obfuscation"], found["verdict"], found["seeds"]) == ("none", rows[0].verdict.level.value, [0, 1])
    assert found["sentence"] == rows[0].verdict.sentence
    psnr = found["metrics"]["psnr"]
    assert psnr["mean"] == 23.0
    assert psnr["low"] < 23.0 < psnr["high"]
    assert (psnr["blind_guess"], psnr["best_control"]) == (11.0, 13.0)
    assert psnr["controls"] == {"another client": 12.0, "labels only": 13.0}
    assert psnr["p"] == rows[0].above["psnr"]


def test_the_table_has_a_line_a_row(folder: Path, trial: MakeTrial) -> None:
    rows = summarise([with_controls(trial(psnr=PSNR)), trial(psnr=PSNR, obfuscation="fp16", correlation=[0.5] * 4)])
    path = write_summary(folder, rows)
    assert path.name == "summary.csv"
    none, half = read(path)
    assert (none["obfuscation"], half["obfuscation"]) == ("none", "fp16")
    assert (none["psnr mean"], none["psnr best control"], none["psnr blind guess"]) == ("23.0", "13.0", "11.0")
    assert (half["psnr best control"], none["correlation mean"], half["correlation mean"]) == ("", "", "0.5")
    assert none["verdict"] == rows[0].verdict.level.value


def test_every_picture_has_a_line(folder: Path, trial: MakeTrial) -> None:
    path = write_scores(folder, [trial(psnr=PSNR), trial(psnr=PSNR, obfuscation="fp16")])
    lines = read(path)
    assert [line["psnr"] for line in lines] == [str(value) for value in PSNR] * 2
    assert path.stat().st_mode & 0o077 == 0  # only its owner may read it


def test_a_name_is_no_formula_and_letters_survive(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(csv_of([{"name": "=1+1", "value": -1.5, "other": 'Zürich, "x"'}]))
    assert read(tmp_path / "x.csv") == [{"name": "'=1+1", "value": "-1.5", "other": 'Zürich, "x"'}]
    assert csv_of([]).decode("utf-8-sig").strip() == ""


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, trial: MakeTrial) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to .*file: "):
        write_summary(tmp_path / "file", summarise([trial()]))
    with pytest.raises(UsageError, match=r"cannot write to .*file: "):
        write_scores(tmp_path / "file", [trial()])
