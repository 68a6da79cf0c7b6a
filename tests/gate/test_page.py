"""What docs/gate.md says: its commands run, and its numbers are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from scipy.stats import binomtest

from gate.made import LEAK, beside_baseline, made, write_folder
from unveil.cli import app as cli
from unveil.gate.conditions import parse
from unveil.metrics import FACTS
from unveil.report.conclusion import LOWER_BOUND

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^    (unveil [^#\n]+)", PAGE)


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {**LEAK, "reid_top1": [0.0] * 8}
    write_folder(Path("audits/audit"), beside_baseline(made(scores=scores), made("fp16", scores), baseline=scores))
    codes = []
    for command in COMMANDS:
        with pytest.raises(SystemExit) as left:
            cli.main(shlex.split(command)[1:])
        codes.append(left.value.code)
    assert codes == [1, 0]


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
