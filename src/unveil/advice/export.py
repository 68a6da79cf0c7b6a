"""What an advice found, as plain JSON."""

from __future__ import annotations

from typing import Any

from unveil.advice.advising import Advice
from unveil.advice.answer import NOT_PROVED, headline, ranked, sentences
from unveil.advice.assessment import Assessment
from unveil.advice.target import written
from unveil.report.formatting import plain


def as_data(advice: Advice) -> dict[str, Any]:
    """Return the answer, the settings that were tried and the question as plain JSON; sizes are in bytes."""
    question = advice.question
    return {
        "answer": plain(headline(advice)),
        "sentences": [plain(sentence) for sentence in sentences(advice)],
        "not_proved": list(NOT_PROVED),
        "target": written(question.target),
        "cheapest": next((one.obfuscation for one in ranked(advice)), None),
        "left_out": [one.text for one in advice.left_out],
        "assessments": [_assessment(one) for one in (advice.baseline, *advice.assessments)],
        "federation": {**question.federation.settings(), "seeds": list(question.federation.seeds)},
        "attacks": [str(attack) for attack in question.auditing.attacks],
        "attacked_clients": question.auditing.clients,
        "candidates": [one.text for one in question.candidates],
        "steps": question.steps,
    }


def _assessment(one: Assessment) -> dict[str, Any]:
    phases = {} if one.leakage is None else one.leakage.judgements
    return {
        "obfuscation": one.obfuscation,
        "verdict": one.ruling.value,
        "accuracy": one.accuracy,
        "accuracy_by_round": [{str(k): v for k, v in run.accuracy.items()} for run in one.runs],
        "accuracy_cost": {"mean": one.cost.mean, "low": one.cost.low, "high": one.cost.high},
        "wire_bytes": one.wire_bits / 8,
        "diverged_in_round": one.diverged,
        "trained_by": [run.trainer for run in one.runs],
        "leakage": [
            {
                "phase": phase,
                "attack": judgement.pool.rows[0].attack,
                "pictures": judgement.pool.pictures,
                "value": judgement.value,
                "bound": judgement.bound,
                "verdict": judgement.ruling.value,
                "sentence": judgement.sentence,
            }
            for phase, found in phases.items()
            for judgement in found
        ],
    }
