"""JUnit files against the schemas of Jenkins and of Ant, and their content."""

from __future__ import annotations

import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema

from gate.made import LEAK, NOTHING, beside_baseline, made, settings_of
from unveil.gate.decision import Decision
from unveil.gate.gate import decide
from unveil.gate.junit import junit

SCHEMAS = [xmlschema.XMLSchema(str(Path(__file__).parent / "schemas" / name)) for name in ("junit-10.xsd", "JUnit.xsd")]
WHEN = datetime.datetime(2026, 11, 30, 8, 5, 9, tzinfo=datetime.UTC)
NASTY = "a\x00\x1b[31m\ufffe\udcff<b>]]>&\"'\u2028"

WORKS = beside_baseline(made("fp16"), made("sign", NOTHING))
FAILS = beside_baseline(made("sign", NOTHING, attack="dlg"), baseline=NOTHING)
DECISIONS = {
    "passed": decide(WORKS, settings_of(WORKS), ["psnr > 30"]),
    "exceeded": decide(WORKS, settings_of(WORKS), ["psnr > 20", "ssim.worst > 0.9"]),
    "skipped": decide([*WORKS, *FAILS], {}, ["psnr > 20"]),
    "not computed": decide(WORKS, settings_of(WORKS), ["lpips < 0.1"]),
    "nothing": decide([], {}, ["psnr > 20"]),
    "unfinished": decide(WORKS, settings_of(WORKS, seeds=[0, 1]), ["psnr > 20"]),
    "nasty": decide(beside_baseline(made("fp16", LEAK, client=NASTY)), {}, ["psnr > 20"]),
}


@pytest.mark.parametrize("schema", SCHEMAS, ids=["Jenkins", "Ant"])
@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS.keys())
def test_every_file_fits_the_schema(schema: xmlschema.XMLSchema, decision: Decision) -> None:
    schema.validate(ElementTree.fromstring(junit(decision, when=WHEN)))


@pytest.mark.parametrize("schema", SCHEMAS, ids=["Jenkins", "Ant"])
def test_a_file_that_does_not_fit_is_noticed(schema: xmlschema.XMLSchema) -> None:
    content = junit(DECISIONS["exceeded"], when=WHEN)
    renamed = content.replace(b"failure ", b"failed ").replace(b"/failure>", b"/failed>")
    for wrong in (renamed, content.replace(b' tests="2"', b"")):
        with pytest.raises(xmlschema.XMLSchemaException):
            schema.validate(ElementTree.fromstring(wrong))


def test_a_condition_is_a_suite_and_a_pool_its_test() -> None:
    root = ElementTree.fromstring(junit(DECISIONS["exceeded"], when=WHEN))
    first, second = root.findall("testsuite")
    assert first.attrib == {
        "name": "psnr > 20",
        "package": "unveil.gate",
        "id": "0",
        "timestamp": "2026-11-30T08:05:09",
        "hostname": "localhost",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }
    assert (second.get("name"), second.get("id"), second.get("failures")) == ("ssim.worst > 0.9", "1", "0")
    failed, passed = first.findall("testcase")
    name = "fp16, hospital, fedsgd, rog, everything known"
    assert (failed.get("name"), failed.get("classname")) == (name, "unveil.gate.psnr.mean")
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("type") == "psnr.mean"
    assert str(failure.get("message")).startswith("psnr is 26.2 dB over 8 pictures, up to 27.0 dB (95 %)")
    assert failure.text == f"{name}: {failure.get('message')}"
    assert len(passed) == 0


def test_what_cannot_be_judged_is_an_error_and_what_another_attack_makes_up_for_is_skipped() -> None:
    (suite,) = ElementTree.fromstring(junit(DECISIONS["not computed"], when=WHEN)).findall("testsuite")
    assert (suite.get("errors"), suite.get("skipped")) == ("2", "0")
    assert [test[0].tag for test in suite.findall("testcase")] == ["error", "error"]
    (suite,) = ElementTree.fromstring(junit(DECISIONS["skipped"], when=WHEN)).findall("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "3",
        "1",
        "0",
        "1",
    )
    assert [[child.tag for child in test] for test in suite.findall("testcase")] == [["failure"], [], ["skipped"]]


@pytest.mark.parametrize(("name", "says"), [("nothing", "Nothing was audited"), ("unfinished", "is not finished")])
def test_an_audit_that_cannot_be_judged_is_an_error_of_its_own(name: str, says: str) -> None:
    first, *rest = ElementTree.fromstring(junit(DECISIONS[name], when=WHEN)).findall("testsuite")
    (error,) = first.iter("error")
    assert says in str(error.get("message"))
    assert (first.get("name"), first.get("tests"), first.get("errors")) == ("the audit", "1", "1")
    assert [suite.get("id") for suite in rest] == [str(number) for number in range(1, len(rest) + 1)]


def test_names_of_others_are_text_and_nothing_else() -> None:
    content = junit(DECISIONS["nasty"], when=WHEN)
    assert b"<b>" not in content
    assert b"\x1b" not in content
    (test,) = ElementTree.fromstring(content).iter("testcase")
    assert test.get("name") == ("fp16, a\\x00\\x1b[31m\\ufffe\\udcff<b>]]>&\"'\\u2028, fedsgd, rog, everything known")
