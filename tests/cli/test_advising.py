"""The command `advise`: the file, what is printed, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from advice.made import advice, assessment
from gate.made import LEAK, NOTHING
from instances import first_of_each
from unveil.cli.advising import exit_code
from unveil.core.records import BASELINE

Call = Callable[..., tuple[int, str, str]]

SMALL = """
target = "psnr.worst <= 5"
candidates = ["topk:density=0.01", "gaussian:relative=1..100"]
steps = 0
attacks = ["unveil:steps=1"]
[federation]
size = 16
clients = 2
batch = 2
rounds = 1
training = "fedsgd"
server_lr = 0.1
test = 20
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Call) -> Call:
    """Run a command line in a folder that holds a small advice file."""
    monkeypatch.chdir(tmp_path)
    Path("advise.toml").write_text(SMALL)
    return command


@pytest.mark.slow
def test_an_advice_is_found_kept_and_shown(call: Call) -> None:
    code, out, err = call("advise", "advise.toml", "--json")
    data = json.loads(out)
    assert code == 1  # no setting meets the target
    assert "At most 3 settings beside the baseline: topk:density=0.01, gaussian:relative=1..100" in err
    assert "About " in err
    specs = [one["obfuscation"] for one in data["assessments"]]
    assert specs == [
        "none",
        "topk:density=0.01",
        "gaussian:relative=100",
    ]  # where that fails, weaker ones are not tried
    assert {len(one["leakage"]) for one in data["assessments"]} == {1}  # one round has one phase
    assert data["assessments"][1]["leakage"][0]["pictures"] == 4
    sizes = [one["wire_bytes"] for one in data["assessments"]]
    assert sizes[0] == sizes[2] > 20 * sizes[1]
    folder = Path("advice/advise")
    assert json.loads((folder / "advice.json").read_text()) == {k: v for k, v in data.items() if k != "folder"}
    assert "<h1>" in (folder / "advice.html").read_text()
    lines = (folder / "audits/results.jsonl").read_text().splitlines()
    assert len(lines) == 6  # two clients; the bare update of the start is attacked once for all settings

    again, shown, _ = call("advise", "advise.toml")
    assert again == 1
    assert "No setting meets psnr.worst <= 5.0 dB. The nearest is " in shown
    assert "Even the strong end of gaussian:relative=1..100 does not meet the target." in shown
    assert "never a proof that it gives nothing away" in shown
    assert "Page: advice/advise/advice.html" in shown
    assert (folder / "audits/results.jsonl").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["target='reid_top1 <= 5%'"], "reid_top1 is not computed; set decoys under metrics"),
        (
            ["target='reid_top1 <= 5%'", "metrics.decoys=8"],
            "4 pictures are too few for 95 % confidence, because even the best result on them is only known up to "
            "49.0%; 73 would do",
        ),
        (["attacked=3"], "3 clients are to be attacked, and there are 2"),
        (["attacks=[]"], "attacks: expected at least one, and each once"),
        (["attacks=['unveil', 'unveil']"], "attacks: expected at least one, and each once"),
        (["federation.rouds=3"], "unknown key 'rouds' in federation; did you mean 'rounds'"),
        (["federation.clients=400"], "the built-in photographs have 640 tiles, and 800 are wanted"),
        (["federation.seeds=[0, 0]"], "expected at least one seed, and each once"),
        (["federation.pictures=1"], "2 clients with 2 pictures cannot train on 2 each"),
        (["federation.model='lenot'"], "lenot"),
        (["candidates=['gaussian:relative=1..1']"], "expected two different numbers above 0"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(call: Call, changes: list[str], message: str) -> None:
    code, out, err = call("advise", "advise.toml", *(part for change in changes for part in ("--set", change)))
    assert (code, out) == (2, "")
    assert err.startswith("Error: advise.toml with --set ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_missing_target_is_said(call: Call) -> None:
    Path("advise.toml").write_text(SMALL.replace("target =", "# target ="))
    code, _, err = call("advise", "advise.toml")
    assert (code, err) == (2, "Error: advise.toml: 'target' is missing; add target = \"…\"\n")


@pytest.mark.parametrize("budget", ["soon", "0m", "-3m", "30"])
def test_a_budget_is_a_time(call: Call, budget: str) -> None:
    code, _, err = call("advise", "advise.toml", f"--budget={budget}")
    assert code == 2
    assert "expected a time above 0; write it as 30m, 2h or 90s" in err


@pytest.mark.parametrize("args", first_of_each([["advise.toml"], ["--advise"], ["--advise", "other.toml"]]))
def test_init_writes_an_advice_file_that_can_be_read(call: Call, args: list[str]) -> None:
    from unveil.cli.advice_config import load_question

    Path("advise.toml").unlink()
    path = "other.toml" if len(args) == 2 else "advise.toml"
    code, out, _ = call("init", *args)
    assert (code, out) == (0, f"Wrote {path}. Run it with: unveil advise {path}\n")
    question = load_question(Path(path))
    assert question.federation.clients == 8
    assert call("init", *args)[0] == 2


def test_exit_codes_are_those_of_the_answer() -> None:
    met, missed = assessment("fp16", NOTHING["psnr"]), assessment("sign", LEAK["psnr"])
    bare = assessment(BASELINE, NOTHING["psnr"], bare=NOTHING["psnr"])
    assert exit_code(advice(missed, met)) == 0
    assert exit_code(advice(missed)) == 1
    assert exit_code(advice(baseline=bare)) == 5
