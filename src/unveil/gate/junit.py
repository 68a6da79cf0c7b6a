"""The decision of a gate as JUnit XML, which GitLab, Jenkins and others show as tests.

Each condition is a test suite and each pool a test of it. There is no standard of this format; what is written fits the
schema that Jenkins reads by and the stricter one of Apache Ant.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from unveil.core.errors import one_line
from unveil.gate.decision import Decision
from unveil.gate.judging import Judgement, Ruling

PACKAGE = "unveil.gate"
"""Start of the class names of the tests: a test keeps its name when a limit changes."""


def junit(decision: Decision, *, when: datetime.datetime) -> bytes:
    """The decision as a JUnit file: a failure beyond a limit, an error where nothing can be judged.

    What another attack makes up for is skipped.

    Args:
        decision: The decision.
        when: The time of the decision, in UTC.
    """
    root = Element("testsuites")
    if decision.problems:
        suite = _suite(root, "the audit", tests=1, errors=1, when=when)
        _closed(suite, [_test("audit", "The audit can be judged.", "error", " ".join(decision.problems))])
    unjudged = decision.unjudged
    for condition, group in groupby(decision.judgements, key=_condition):
        members = list(group)
        suite = _suite(
            root,
            condition,
            tests=len(members),
            failures=sum(one.ruling is Ruling.EXCEEDED for one in members),
            errors=sum(one in unjudged for one in members),
            skipped=sum(one.ruling is Ruling.UNJUDGED and one not in unjudged for one in members),
            when=when,
        )
        _closed(suite, [_test(one.rule, one.pool.name, _kind(one, unjudged), one.sentence) for one in members])
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def _condition(judgement: Judgement) -> str:
    return judgement.condition


def _kind(judgement: Judgement, unjudged: Sequence[Judgement]) -> str:
    """What a test says beside its name: `failure`, `error`, `skipped`, or nothing for one that passed."""
    if judgement.ruling is Ruling.PASSED:
        return ""
    if judgement.ruling is Ruling.EXCEEDED:
        return "failure"
    return "error" if judgement in unjudged else "skipped"


def _suite(
    root: Element,
    name: str,
    *,
    tests: int,
    when: datetime.datetime,
    failures: int = 0,
    errors: int = 0,
    skipped: int = 0,
) -> Element:
    """A new suite; the names of hosts are nobody's concern."""
    suite = SubElement(
        root,
        "testsuite",
        name=one_line(name),
        package=PACKAGE,
        id=str(len(root)),
        timestamp=when.strftime("%Y-%m-%dT%H:%M:%S"),
        hostname="localhost",
        tests=str(tests),
        failures=str(failures),
        errors=str(errors),
        skipped=str(skipped),
        time="0",
    )
    SubElement(suite, "properties")
    return suite


def _test(rule: str, name: str, kind: str, sentence: str) -> Element:
    """One test; `one_line` leaves no character that XML forbids."""
    test = Element("testcase", name=one_line(name), classname=one_line(f"{PACKAGE}.{rule}"), time="0")
    if kind == "skipped":
        SubElement(test, kind)
    elif kind:
        said = SubElement(test, kind, type=one_line(rule), message=one_line(sentence))
        said.text = one_line(f"{name}: {sentence}")
    return test


def _closed(suite: Element, tests: Sequence[Element]) -> None:
    """Add the tests, and the empty output that Ant's schema asks for."""
    suite.extend(tests)
    SubElement(suite, "system-out")
    SubElement(suite, "system-err")
