"""Nothing that unveil prints can rewrite the terminal, whoever wrote the text."""

from __future__ import annotations

import ast
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cli.test_app import Call, call
from sources import FILES, nodes
from unveil.audits.results import append, prepare, read_trials
from unveil.cli.terminal import console, say, say_json, warnings_shown
from unveil.core.errors import one_line, printable
from unveil.report.table import print_table

__all__ = ["call"]

DOORS = {"click.echo", "click.secho", "echo", "print", "Console"}
ENDS = {name.rpartition(".")[2] for name in DOORS}
FORGED = "x\x1b[2K\x1b[1A\rNO LEAK FOUND\x9b31m\x07\u202e\u2028"
SHOWN = "x\\x1b[2K\\x1b[1A\\rNO LEAK FOUND\\x9b31m\\x07\\u202e\\u2028"


def test_control_characters_are_written_out_and_letters_of_all_scripts_stay() -> None:
    assert one_line(FORGED) == SHOWN
    assert printable(f"{FORGED}\nÄ 字 😀") == f"{SHOWN}\nÄ 字 😀"


def test_what_is_said_and_logged_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say(FORGED)
    say(FORGED, err=True)
    with warnings_shown():
        logging.getLogger("unveil.audits.running").warning("%s: lost", FORGED)
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert err == f"{SHOWN}\n{SHOWN}: lost\n"


def test_json_stays_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {FORGED: [FORGED, "Ä 😀", "\U000e0001"]}
    say_json(json.dumps(value, ensure_ascii=False, indent=2))
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "Ä 😀" in out


def test_a_console_keeps_its_own_colours_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console()
    terminal.print(FORGED, markup=False, highlight=False, soft_wrap=True)
    shown = SHOWN.replace("\\r", "").replace("\\x07", "")  # rich leaves these out itself
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.slow
def test_a_verdict_cannot_be_forged_by_results_of_others(call: Call) -> None:
    assert call("audit", "audit.toml").code == 0
    trials = read_trials(Path("audits/audit"))
    prepare(Path("forged"), {})
    for trial in trials:
        settings = {**trial.settings, "client": FORGED, "attack": FORGED}
        outcomes = {name: replace(outcome, notes=[FORGED], images=[]) for name, outcome in trial.outcomes.items()}
        append(Path("forged"), replace(trial, settings=settings, outcomes=outcomes, originals=[], family=FORGED))
    answer = call("report", "forged")
    assert answer.code == 0
    assert all(c.isprintable() or c == "\n" for c in answer.out + answer.err)
    content = io.StringIO()
    print_table(read_trials(Path("forged")), Console(file=content, width=100))  # a console of the caller's
    assert all(c.isprintable() or c == "\n" for c in content.getvalue())


def test_there_is_no_other_door() -> None:
    doors = set()
    for path in FILES:
        called = (node.func for node in nodes(path) if isinstance(node, ast.Call))
        plain = (one for one in called if getattr(one, "attr", getattr(one, "id", "")) in ENDS)
        doors |= {(path.name, name) for name in map(ast.unparse, plain) if name in DOORS}
    assert doors == {("terminal.py", "click.echo")}
