"""The decision of a gate: its exit code and the judgements that decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from unveil.gate.judging import Judgement, Ruling
from unveil.report.conclusion import LOWER_BOUND

PASSED, EXCEEDED, UNJUDGED = 0, 1, 5
"""Exit codes."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a gate decides.

    Args:
        judgements: Every pool by every rule.
        problems: Why something that was asked for cannot be judged, one sentence each, with what to do.
        remarks: What else a reader must know, one sentence each.
    """

    judgements: tuple[Judgement, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def exceeded(self) -> list[Judgement]:
        """What lies beyond its limit."""
        return [one for one in self.judgements if one.ruling is Ruling.EXCEEDED]

    @property
    def unjudged(self) -> list[Judgement]:
        """What cannot be judged, and was judged by no other attack or attacker either."""
        judged = {(one.condition, one.pool.tested) for one in self.judgements if one.ruling is not Ruling.UNJUDGED}
        return [
            one
            for one in self.judgements
            if one.ruling is Ruling.UNJUDGED and (one.condition, one.pool.tested) not in judged
        ]

    @property
    def exit_code(self) -> int:
        """1 if something lies beyond its limit; else 5 if something, or all, could not be judged; else 0."""
        if self.exceeded:
            return EXCEEDED
        return UNJUDGED if self.problems or self.unjudged or not self.judgements else PASSED

    @property
    def deciding(self) -> list[Judgement]:
        """The judgements that decide: of each condition and obfuscation all that fail, else the nearest to its limit.

        What lies farthest beyond its limit comes first, and what cannot be judged after it; what another attack makes
        up for is left out.
        """
        found = []
        ordered = sorted(self.judgements, key=_topic)
        failing = [*self.exceeded, *self.unjudged]
        for _, group in groupby(ordered, key=_topic):
            members = list(group)
            decisive = sorted((one for one in failing if one in members), key=lambda one: one.room)
            passed = [one for one in members if one.ruling is Ruling.PASSED]
            found += decisive or [min(passed, key=lambda one: one.room)]
        order = [Ruling.EXCEEDED, Ruling.UNJUDGED, Ruling.PASSED]
        return sorted(found, key=lambda one: order.index(one.ruling))

    @property
    def sentence(self) -> str:
        """The decision in one or two sentences; a pass with what it does not prove."""
        if self.exit_code == EXCEEDED:
            return f"Exceeded: {_counted(self.exceeded, len(self.judgements))} beyond the limit."
        if self.exit_code == UNJUDGED:
            return f"Not judged: {' '.join([*self.problems, *_reasons(self.unjudged)])}"
        return f"Passed: {_counted(self.judgements, len(self.judgements))} within the limit. {LOWER_BOUND}"


def _topic(judgement: Judgement) -> tuple[str, str]:
    return judgement.condition, judgement.pool.obfuscation


def _counted(judgements: Sequence[Judgement], total: int) -> str:
    number = len(judgements)
    of = f"{number} of {total} values" if number < total else f"all {total} values" if total > 1 else "the one value"
    return f"{of} {'lies' if number == 1 else 'lie'}"


def _reasons(judgements: Sequence[Judgement]) -> list[str]:
    """The reasons, each once."""
    return list(dict.fromkeys(one.sentence for one in judgements))
