"""What docs/gate.md says: its commands run, and its numbers are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binomtest

from gate.made import LEAK, beside_baseline, made, write_folder
from unveil.cli import app as cli
from unveil.cli.auditing import audit
from unveil.gate.conditions import parse
from unveil.metrics import FACTS
from unveil.report.conclusion import LOWER_BOUND

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^    (unveil [^#\n]+)", PAGE)


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {**LEAK, "reid_top1": [0.0] * 8}
    write_folder(Path("audits/audit"), beside_baseline(made(scores=scores), made("fp16", scores), baseline=scores))
    write_folder(Path("audits/main"), beside_baseline(made(), made("fp16")))
    codes = []
    for command in COMMANDS:
        with pytest.raises(SystemExit) as left:
            cli.main(shlex.split(command)[1:])
        codes.append(left.value.code)
    assert codes == [1, 0, 0, 1]
    assert Path("gate.xml").is_file()
    assert Path("gate.sarif").is_file()


def job(number: int) -> Any:
    return yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[number])


def commands(number: int) -> list[list[str]]:
    """The commands of unveil in one of the two jobs."""
    lines = (
        [step.get("run", "") for step in job(0)["jobs"]["gate"]["steps"]]
        if number == 0
        else job(1)["leakage"]["script"]
    )
    return [shlex.split(line) for line in lines if line.startswith("unveil ")]


@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_of_the_jobs_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    audits, gates = commands(number)
    assert audits[:3] == ["unveil", "audit", "audit.toml"]
    assert audit.make_context("audit", audits[2:]).params["images"] == "none"
    scores = {**LEAK, "reid_top1": [0.0] * 8}
    write_folder(Path("audits/audit"), beside_baseline(made(scores=scores), baseline=scores))
    with pytest.raises(SystemExit) as left:
        cli.main(gates[1:])
    assert left.value.code == 1


def test_the_jobs_pass_on_the_file_that_the_gate_writes() -> None:
    (upload,) = [step for step in job(0)["jobs"]["gate"]["steps"] if "upload-sarif" in step.get("uses", "")]
    assert commands(0)[1][-2:] == ["--sarif", upload["with"]["sarif_file"]]
    assert job(0)["permissions"]["security-events"] == "write"
    assert commands(1)[1][-2:] == ["--junit", job(1)["leakage"]["artifacts"]["reports"]["junit"]]
    assert job(1)["leakage"]["artifacts"]["when"] == "always"


def test_every_condition_of_the_table_is_one() -> None:
    table = PAGE.split("| condition | fails if |")[1].split("\n\n")[0]
    conditions = [text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(conditions) == 6
    assert parse(conditions[0], list(FACTS)) == parse(conditions[1], list(FACTS))
    for text in conditions:
        parse(text, list(FACTS))


def test_what_it_says_of_bounds_is_true() -> None:
    def high(n: int) -> float:
        return binomtest(0, n).proportion_ci(method="wilson").high

    assert f"{high(8):.0%}" == "32%"
    assert high(35) <= 0.1 < high(34)
    assert "still 32 %" in PAGE
    assert "it takes 35" in PAGE


def test_a_pass_is_no_proof_in_the_words_of_the_report() -> None:
    assert LOWER_BOUND in " ".join(PAGE.split())
