"""The re-audits of an advice: which settings they are about, and how their table counts."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.advice import RUNS, Case, answers, settings_of, table


def one(obfuscation: str, verdict: str, accuracy: float, wire_bytes: float = 100.0) -> dict[str, Any]:
    """A setting as `advice.json` has it."""
    return {
        "obfuscation": obfuscation,
        "verdict": verdict,
        "accuracy": accuracy,
        "wire_bytes": wire_bytes,
        "leakage": [{"bound": 0.04, "verdict": "passed"}, {"bound": 0.3, "verdict": "not judged"}],
    }


@pytest.mark.parametrize("is_met", [True, False])
def test_the_settings_are_the_cheapest_of_a_search_and_the_next_weaker_one(is_met: bool) -> None:
    found = {
        "candidates": ["fp16", "gaussian:relative=1..100", "topk:density=0.1..0.001"],
        "steps": 1,
        "assessments": [
            one("none", "exceeded", 0.5),
            one("fp16", "passed", 0.49),  # cheaper, but nothing was searched
            one("gaussian:relative=100", "passed", 0.1),
            one("gaussian:relative=1", "exceeded", 0.4),
            one("gaussian:relative=10", "passed" if is_met else "exceeded", 0.3),
            one("topk:density=0.001", "passed", 0.2),
            one("topk:density=0.1", "not judged", 0.1),
        ],
    }
    weakest = "gaussian:relative=10" if is_met else "gaussian:relative=100"
    fails = "gaussian:relative=1" if is_met else "gaussian:relative=10"
    assert settings_of(found) == {"named": weakest, "weaker": fails}
    found["assessments"] = found["assessments"][:2]
    assert settings_of(found) == {}


def test_a_run_holds_if_no_round_exceeds_the_target() -> None:
    within, beyond = [1.0] * 4 + [0.0] * 76, [1.0] * 5 + [0.0] * 75  # 5 % and 6.25 %
    results = {
        str(Case(network="resnet8", role="weaker", number=number)): {
            "setting": "topk:density=0.01",
            "found": {"start": within, "end": beyond if number == 3 else within},
        }
        for number in range(RUNS)
    }
    # 40 x 4 + 1 of 3,200
    line = "| resnet8 | `topk:density=0.01` | the next weaker one | 39 of 40 | 5.0% [4.3%, 5.8%] |"
    assert line in table(results)
    assert table({}) == "The settings were not audited again yet.\n"


def test_the_answers_are_those_of_the_advice() -> None:
    found = {"answer": "It is sign.", "assessments": [one("sign", "passed", 0.5, 2e6)]}
    text = answers({str(Case(network="quickstart")): found})
    assert text.startswith("**quickstart**: It is sign.\n")
    assert "| `sign` | 4.0% | 1 of 2 | 50.0% | 2 | passed |" in text
    assert answers({}) == "The study was not run whole yet.\n"
