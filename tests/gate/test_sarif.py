"""SARIF files against the schema of OASIS, and their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of
from unveil import __version__
from unveil.gate.decision import Decision
from unveil.gate.gate import decide
from unveil.gate.places import Place
from unveil.gate.sarif import sarif

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
VALIDATOR = Draft4Validator(SCHEMA, format_checker=Draft4Validator.FORMAT_CHECKER)
FILE = Place(uri="audits/my%20audit.toml", is_relative=True)
PLACES = {"": FILE, "fp16": Place(uri="audits/my%20audit.toml", is_relative=True, line=9)}
NASTY = "a\x00\x1b[31m\udcff[click](https://example.org){0}\\"

WORKS = beside_baseline(made("fp16"), made("sign", NOTHING))
DECISIONS = {
    "passed": decide(WORKS, settings_of(WORKS), ["psnr > 30"]),
    "exceeded": decide(WORKS, settings_of(WORKS), ["psnr > 20", "ssim.worst > 0.7"]),
    "not computed": decide(WORKS, settings_of(WORKS), ["lpips < 0.1"]),
    "nothing": decide([], {}, ["psnr > 20"]),
    "unfinished": decide(WORKS, settings_of(WORKS, seeds=[0, 1]), ["psnr > 20"]),
    "nasty": decide(beside_baseline(made("fp16", LEAK, client=NASTY)), {}, ["psnr > 20"]),
    "one picture": decide(
        beside_baseline(made("fp16", {"psnr": [25.0], "ssim": [0.8]}), baseline={"psnr": [25.0], "ssim": [0.8]}),
        {},
        ["psnr > 20"],
    ),
}


def run_of(decision: Decision) -> dict[str, Any]:
    (run,) = json.loads(sarif(decision, PLACES))["runs"]
    assert isinstance(run, dict)
    return run


@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS.keys())
def test_every_file_fits_the_schema(decision: Decision) -> None:
    Draft4Validator.check_schema(SCHEMA)
    log = json.loads(sarif(decision, PLACES))
    assert [error.message for error in VALIDATOR.iter_errors(log)] == []
    assert log["$schema"] == SCHEMA["id"]


def test_a_file_that_does_not_fit_is_noticed() -> None:
    log = json.loads(sarif(DECISIONS["exceeded"], PLACES))
    for spoil in (
        lambda run: run.pop("tool"),
        lambda run: run["results"][0].update(level="fatal"),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
        lambda run: run.update(unknown=1),
    ):
        spoilt = json.loads(json.dumps(log))
        spoil(spoilt["runs"][0])
        assert list(VALIDATOR.iter_errors(spoilt)), spoil


def test_what_lies_beyond_a_limit_is_a_result_in_the_audit_file() -> None:
    run = run_of(DECISIONS["exceeded"])
    assert run["tool"]["driver"]["version"] == __version__
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["psnr.mean", "ssim.worst", "not-judged"]
    assert run["invocations"][0]["executionSuccessful"] is True
    assert run["invocations"][0]["exitCode"] == 1
    first, second = run["results"]
    assert (first["ruleId"], first["ruleIndex"], second["ruleId"], second["ruleIndex"]) == (
        "psnr.mean",
        0,
        "ssim.worst",
        1,
    )
    assert first["message"]["text"].startswith(
        "psnr > 20: fp16, hospital, fedsgd, rog, everything known: psnr is 26.2 dB over 8 pictures, up to 27.0 dB"
    )
    assert first["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "audits/my%20audit.toml", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 9},
            }
        }
    ]
    assert first["properties"]["value"] == 26.25
    assert first["properties"]["limit"] == 20.0


def test_a_pass_has_no_result() -> None:
    run = run_of(DECISIONS["passed"])
    assert run["results"] == []
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 0, "toolExecutionNotifications": []}]


@pytest.mark.parametrize(("name", "count"), [("not computed", 2), ("nothing", 1), ("unfinished", 2)])
def test_what_cannot_be_judged_is_a_result_too(name: str, count: int) -> None:
    run = run_of(DECISIONS[name])
    assert len(run["results"]) == count
    assert "not-judged" in {result["ruleId"] for result in run["results"]}
    assert run["invocations"][0]["exitCode"] == DECISIONS[name].exit_code
    assert run["invocations"][0]["executionSuccessful"] is (name == "unfinished")  # something lies beyond a limit there
    problems = [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert problems == list(DECISIONS[name].problems)


def test_a_finding_is_known_again_whatever_the_limit_and_the_scores_are() -> None:
    def prints(limit: str, trials: Any) -> list[str]:
        results = run_of(decide(trials, settings_of(trials), [limit]))["results"]
        return [result["partialFingerprints"]["unveilGate/v1"] for result in results]

    again = beside_baseline(made("fp16", {"psnr": [29.0] * 8, "ssim": [0.8] * 8}), made("sign"))
    before = prints("psnr > 20", WORKS)
    assert prints("psnr > 19", again)[0] == before[0]
    assert len(set(prints("psnr > 19", again))) == 2
    assert prints("psnr.worst > 20", WORKS) != before


def test_names_of_others_are_text_and_nothing_else() -> None:
    content = sarif(DECISIONS["nasty"], PLACES)
    assert b"\x1b" not in content
    (result,) = json.loads(content)["runs"][0]["results"]
    assert (
        "a\\\\x00\\\\x1b\\[31m\\\\udcff\\[click\\](https://example.org){{0}}\\\\, fedsgd" in result["message"]["text"]
    )


def test_a_file_outside_has_no_base_and_an_unknown_obfuscation_no_line() -> None:
    places = {"": Place(uri="file:///elsewhere/audit.json", is_relative=False)}
    (run,) = json.loads(sarif(DECISIONS["exceeded"], places))["runs"]
    assert run["results"][0]["locations"] == [
        {"physicalLocation": {"artifactLocation": {"uri": "file:///elsewhere/audit.json"}}}
    ]
