"""The command `gate`: what it prints and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of, write_folder
from unveil.core.metric import MetricFacts

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Call) -> Call:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return command


TRIALS = beside_baseline(made("fp16"), made("topk:density=0.05", NOTHING))


def test_a_pass_prints_the_values_that_decide_and_what_it_does_not_prove(call: Call) -> None:
    write_folder(Path("out"), TRIALS)
    code, out, err = call("gate", "out", "--fail-on", "psnr > 30", "--fail-on", "psnr.worst > 28")
    assert (code, err) == (0, "")
    header, *lines, last = out.splitlines()
    assert header.split() == ["fails", "if", "obfuscation", "clients", "attack", "value", "bound", "verdict"]
    text = " ".join(" ".join(lines).split())
    assert "psnr > 30 fp16 hospital rog, everything known 26.2 dB 27.0 dB passed" in text
    assert "psnr.worst > 28 topk:density=0.05 hospital rog, everything known 11.2 dB 11.2 dB passed" in text
    assert last.startswith("Passed: all 4 values lie within the limit. A failed attack is a lower bound")


def test_a_limit_that_is_exceeded_is_said_with_its_numbers(call: Call) -> None:
    write_folder(Path("out"), TRIALS)
    code, out, err = call("gate", "out", "--fail-on", "psnr.worst > 20")
    assert code == 1
    assert "28.0 dB  28.0 dB  exceeded" in out
    assert "psnr.worst > 20: fp16, hospital, fedsgd, rog, everything known: psnr of the worst of 8 pictures is " in out
    assert err == "Exceeded: 1 of 2 values lies beyond the limit.\n"


def test_json_has_the_decision_and_nothing_else(call: Call) -> None:
    write_folder(Path("out"), TRIALS)
    code, out, err = call("gate", "out", "--fail-on", "psnr.worst > 20", "--json")
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert (found["folder"], found["exit_code"], found["problems"]) == ("out", 1, [])
    assert found["sentence"] == "Exceeded: 1 of 2 values lies beyond the limit."
    assert [(one["obfuscation"], one["verdict"]) for one in found["judgements"]] == [
        ("fp16", "exceeded"),
        ("topk:density=0.05", "passed"),
    ]
    assert found["judgements"][0] == {
        "rule": "psnr.worst",
        "condition": "psnr.worst > 20",
        "obfuscation": "fp16",
        "clients": ["hospital"],
        "training": "fedsgd",
        "attack": "rog",
        "enhancer": "",
        "threat_model": "everything known",
        "pictures": 8,
        "value": 28.0,
        "bound": 28.0,
        "limit": 20.0,
        "since": "",
        "verdict": "exceeded",
        "sentence": "psnr of the worst of 8 pictures is 28.0 dB, beyond the limit of 20.0 dB.",
    }


def test_one_obfuscation_may_be_written_in_another_way(call: Call) -> None:
    write_folder(Path("out"), TRIALS)
    assert call("gate", "out", "--fail-on", "psnr > 20")[0] == 1
    assert call("gate", "out", "--fail-on", "psnr > 20", "--obfuscation", "topk:density=.05")[0] == 0
    code, _, err = call("gate", "out", "--fail-on", "psnr > 20", "--obfuscation", "topk:density=0.01")
    assert code == 2
    assert "--obfuscation 'topk:density=0.01': the audit has no such row; did you mean 'topk:density=0.05'?" in err


@pytest.mark.parametrize("condition", ["psnr > 20", "lpips < 0.1"])
def test_what_cannot_be_judged_is_five_with_the_fix(call: Call, condition: str) -> None:
    write_folder(Path("out"), beside_baseline(made("fp16", NOTHING), baseline=NOTHING))
    code, out, err = call("gate", "out", "--fail-on", condition)
    assert code == 5
    assert "not judged" in out
    assert err.startswith("Not judged: This attack fails even on the bare update")
    assert "another attack, or a smaller batch." in err


def test_an_empty_folder_is_five(call: Call) -> None:
    write_folder(Path("out"), [], settings_of(TRIALS))
    code, out, err = call("gate", "out", "--fail-on", "psnr > 20")
    assert (code, out) == (5, "")
    assert err == "Not judged: Nothing was audited; run `unveil audit` into this folder.\n"


def test_an_unfinished_folder_is_five(call: Call) -> None:
    write_folder(Path("out"), TRIALS[:-1], settings_of(TRIALS))
    code, _, err = call("gate", "out", "--fail-on", "psnr > 30")
    assert code == 5
    assert "not finished: client hospital, topk:density=0.05, rog, everything known, seed 0. Run the same" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent", "--fail-on", "psnr > 20"], "absent holds no results"),
        (["out"], "gate: there is no limit; give one, as in --fail-on 'reid_top1 > 0.1', or --baseline DIR"),
        (["out", "--baseline", "absent"], "absent holds no results"),
        (["out", "--fail-on", "pnsr > 20"], "unknown metric 'pnsr'; did you mean 'psnr'?"),
        (["out", "--fail-on", "psnr"], "expected METRIC > LIMIT"),
        (["out", "--fail-on", "psnr < 20"], "write 'psnr > 20'"),
        (["nothing", "--fail-on", "psnr"], "expected METRIC > LIMIT"),
        (["bare", "--fail-on", "psnr > 20"], "bare/audit.json cannot be opened"),
        (["out", "--fail-on", "a\x1b[31m\nb > 20"], "--fail-on 'a\\x1b[31m\\nb > 20'"),
    ],
)
def test_bad_input_is_two_and_one_sentence(call: Call, args: list[str], message: str) -> None:
    write_folder(Path("out"), TRIALS)
    write_folder(Path("nothing"), [], settings_of(TRIALS))
    write_folder(Path("bare"), TRIALS)
    Path("bare/audit.json").unlink()
    code, out, err = call("gate", *args)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err


def test_no_name_of_a_folder_reaches_the_terminal_as_more_than_text(call: Call) -> None:
    nasty = "a\x1b[31m\u202e[bold]b"
    write_folder(Path("out"), beside_baseline(made("fp16", LEAK, client=nasty)))
    for condition in ("psnr > 20", "psnr > 40"):
        _, out, err = call("gate", "out", "--fail-on", condition)
        assert "[bold]" in out
        assert (out + err).replace("\n", "").isprintable()
    code, out, _ = call("gate", "out", "--fail-on", "psnr > 20", "--json")
    assert code == 1
    assert json.loads(out)["judgements"][0]["clients"] == [nasty]
    assert out.replace("\n", "").isprintable()


def test_the_unit_of_a_metric_of_others_is_text(call: Call) -> None:
    facts = MetricFacts(name="blur", leak="high", unit="\x1b[bold]", title="<b>")
    scores = {**LEAK, "blur": [1.0] * 8}
    trials = [replace(one, metrics={"blur": facts}) for one in beside_baseline(made("fp16", scores), baseline=scores)]
    write_folder(Path("out"), trials)
    for limit in ("0", "2"):
        _, out, err = call("gate", "out", "--fail-on", f"blur > {limit}", "--sarif", "a.sarif", "--junit", "a.xml")
        assert "1.00 \\x1b[bold]" in out
        assert (out + err).replace("\n", "").isprintable()
        messages = [one.get("message", "") for one in ElementTree.parse("a.xml").iter("failure")]
        assert ["1.00 \\x1b[bold]" in message for message in messages] == ([True] if limit == "0" else [])
        assert "\x1b" not in Path("a.sarif").read_text(encoding="utf-8")


def test_files_for_other_tools_are_written_whatever_the_decision_is(call: Call) -> None:
    Path("audit.toml").write_text('obfuscations = ["none", "fp16"]\n', encoding="utf-8")
    write_folder(Path("out"), TRIALS)
    write_folder(Path("nothing"), [], settings_of(TRIALS))
    run = {"command": "unveil audit audit.toml --out out", "date": "2026-11-30", "author": ""}
    Path("out/runs.json").write_text(json.dumps([run]), encoding="utf-8")
    for folder, limit, code in (("out", "30", 0), ("out", "20", 1), ("nothing", "20", 5)):
        files = ("--junit", "made/here/gate.xml", "--sarif", "made/gate.sarif")
        assert call("gate", folder, "--fail-on", f"psnr > {limit}", *files)[0] == code
        suites = ElementTree.parse("made/here/gate.xml").getroot()
        assert [suite.get("name") for suite in suites] == [f"psnr > {limit}" if folder == "out" else "the audit"]
        (sarif,) = json.loads(Path("made/gate.sarif").read_text(encoding="utf-8"))["runs"]
        assert sarif["invocations"][0]["exitCode"] == code
        (uri,) = {
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in sarif["results"]
        } or {""}
        assert uri == {0: "", 1: "audit.toml", 5: "nothing/audit.json"}[code]


@pytest.mark.parametrize("option", ["--junit", "--sarif"])
def test_a_file_that_cannot_be_written_is_two(call: Call, option: str) -> None:
    write_folder(Path("out"), TRIALS)
    Path("file").touch()
    code, out, err = call("gate", "out", "--fail-on", "psnr > 30", option, "file/gate")
    assert (code, out) == (2, "")
    assert err.startswith("Error: cannot write to file: ")
    assert err.endswith(f"choose another folder with {option}\n")


def test_a_rise_over_an_earlier_audit_is_one(call: Call) -> None:
    write_folder(Path("before"), beside_baseline(made("fp16", NOTHING)))
    write_folder(Path("now"), beside_baseline(made("fp16")))
    code, out, err = call("gate", "now", "--baseline", "before")
    assert code == 1
    assert "psnr rises  fp16 " in out
    assert "psnr rises: fp16, hospital, fedsgd, rog, everything known: What leaks in psnr rose by 15.1 dB over " in out
    assert err == "Exceeded: all 2 values rose significantly since before.\n"
    code, out, err = call("gate", "before", "--baseline", "now", "--fail-on", "psnr > 20")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(
        "Passed: the one value lies within the limit and no value rose significantly since now. A failed attack"
    )
    assert call("gate", "now", "--baseline", "before", "--fail-on", "psnr > 30")[0] == 1
    assert call("gate", "now", "--baseline", "now", "--junit", "a.xml", "--sarif", "a.sarif")[0] == 0
    assert '"id": "psnr.rise"' in Path("a.sarif").read_text(encoding="utf-8")
    assert 'name="psnr rises"' in Path("a.xml").read_text(encoding="utf-8")


def test_remarks_on_what_differs_are_printed(call: Call) -> None:
    write_folder(Path("before"), beside_baseline(made("fp16"), made("sign"), made("nf4")))
    write_folder(Path("now"), beside_baseline(made("fp16"), made("qsgd:levels=4")))
    code, out, _ = call("gate", "now", "--baseline", "before")
    assert code == 0
    assert "New, and not compared: qsgd:levels=4, hospital, fedsgd, rog, everything known." in out
    assert "In before and not here: sign, hospital, fedsgd, rog, everything known; nf4, hospital" in out
