"""The decision of a gate as SARIF 2.1.0, which GitHub and others show beside the code.

Only what fails is a result: GitHub shows every result as an alert.

Reference: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0 Plus Errata 01, 2023.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from unveil import __version__
from unveil.core.errors import one_line
from unveil.gate.decision import EXCEEDED, PASSED, Decision
from unveil.gate.judging import Judgement, Ruling
from unveil.gate.places import Place
from unveil.report.conclusion import LOWER_BOUND

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
NOT_JUDGED = "not-judged"
"""The rule of what could not be judged; every other rule has the name of what is judged, such as `psnr.worst`."""

FINGERPRINT = "unveilGate/v1"


def sarif(decision: Decision, places: Mapping[str, Place]) -> bytes:
    """The decision as a SARIF file.

    Args:
        decision: The decision.
        places: Obfuscation, as rows name it -> where it stands in the audit file; an empty name has the place of the
            audit as a whole.
    """
    failing = [*decision.exceeded, *decision.unjudged]
    rules = [*dict.fromkeys(one.rule for one in decision.judgements), NOT_JUDGED]
    facts = {one.rule: one for one in decision.judgements}
    run = {
        "tool": {
            "driver": {
                "name": "unveil",
                "version": __version__,
                "rules": [_rule(name, facts.get(name)) for name in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": decision.exit_code in (PASSED, EXCEEDED),
                "exitCode": decision.exit_code,
                "toolExecutionNotifications": [
                    {"level": "error", "message": _message(problem)} for problem in decision.problems
                ],
            }
        ],
        "results": [
            *(_result(one, rules, places.get(one.pool.obfuscation, places[""])) for one in failing),
            *(_problem(problem, rules, places[""]) for problem in decision.problems),
        ],
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return (json.dumps(log, indent=2, allow_nan=False) + "\n").encode()


def _rule(name: str, one: Judgement | None) -> dict[str, Any]:
    """A rule, the same whatever the limit is."""
    if one is None:
        short = "A limit on leakage could not be judged."
    else:
        title = one.facts.title or one.facts.name
        bar = "in an earlier audit" if one.since else "a limit allows"
        short = f"More came back than {bar}: {title} ({one.rule})."
    return {
        "id": one_line(name),
        "shortDescription": _message(short),
        "fullDescription": _message(f"{short} The rebuilt pictures are in the report of the audit."),
        "help": _message(
            "Obfuscate more, send less, or train on larger batches, and audit again; docs/gate.md of unveil says how "
            f"values are judged. {LOWER_BOUND}"
        ),
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security", "privacy"]},
    }


def _result(one: Judgement, rules: list[str], place: Place) -> dict[str, Any]:
    """What lies beyond its limit, or could not be judged."""
    rule = one.rule if one.ruling is Ruling.EXCEEDED else NOT_JUDGED
    numbers = {"value": one.value, "bound": one.bound, "limit": one.limit}
    known = {name: number for name, number in numbers.items() if number is not None and math.isfinite(number)}
    identity = json.dumps([rule, one.rule, one.pool.obfuscation, *one.pool.identity])
    return {
        **_located(rule, rules, f"{one.condition}: {one.pool.name}: {one.sentence}", identity, place),
        "properties": known,
    }


def _problem(sentence: str, rules: list[str], place: Place) -> dict[str, Any]:
    """What keeps the whole audit from being judged."""
    return _located(NOT_JUDGED, rules, sentence, json.dumps([NOT_JUDGED]), place)


def _located(rule: str, rules: list[str], text: str, identity: str, place: Place) -> dict[str, Any]:
    """A result with its place, and a fingerprint by which a platform knows it again."""
    artifact = {"uri": place.uri, **({"uriBaseId": "%SRCROOT%"} if place.is_relative else {})}
    region = {} if place.line is None else {"region": {"startLine": place.line}}
    return {
        "ruleId": one_line(rule),
        "ruleIndex": rules.index(rule),
        "level": "error",
        "message": _message(text),
        "locations": [{"physicalLocation": {"artifactLocation": artifact, **region}}],
        "partialFingerprints": {FINGERPRINT: hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()},
    }


def _message(text: str) -> dict[str, str]:
    """A message in which brackets and braces, which could make links and placeholders, are only text.

    As sections 3.11.5 and 3.11.6 of the standard say.
    """
    shown = one_line(text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return {"text": shown.replace("{", "{{").replace("}", "}}")}
