"""The decision of a gate: its exit code and the judgements that decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from unveil.gate.judging import Judgement, Ruling
from unveil.report.conclusion import LOWER_BOUND
from unveil.report.formatting import listed

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
            return f"Exceeded: {listed(list(filter(None, (self._beyond, self._risen))))}."
        if self.exit_code == UNJUDGED:
            return f"Not judged: {' '.join([*self.problems, *_reasons(self.unjudged)])}"
        limits = [one for one in self.judgements if not one.since]
        within = f"{_counted(len(limits), len(limits), 'lies', 'lie')} within the limit" if limits else ""
        steady = f"no value rose significantly since {self._since}" if self._since else ""
        return f"Passed: {listed(list(filter(None, (within, steady))))}. {LOWER_BOUND}"

    @property
    def _beyond(self) -> str:
        """How many values lie beyond their limit; empty if none does."""
        limits = [one for one in self.judgements if not one.since]
        number = sum(not one.since for one in self.exceeded)
        return f"{_counted(number, len(limits), 'lies', 'lie')} beyond the limit" if number else ""

    @property
    def _risen(self) -> str:
        """How many values rose; empty if none did."""
        number, total = sum(bool(one.since) for one in self.exceeded), sum(bool(one.since) for one in self.judgements)
        return f"{_counted(number, total, 'rose', 'rose')} significantly since {self._since}" if number else ""

    @property
    def _since(self) -> str:
        """The earlier audit; empty if nothing was compared with one."""
        return next((one.since for one in self.judgements if one.since), "")


def _topic(judgement: Judgement) -> tuple[str, str]:
    return judgement.condition, judgement.pool.obfuscation


def _counted(number: int, total: int, one: str, several: str) -> str:
    of = f"{number} of {total} values" if number < total else f"all {total} values" if total > 1 else "the one value"
    return f"{of} {one if number == 1 else several}"


def _reasons(judgements: Sequence[Judgement]) -> list[str]:
    """The reasons, each once."""
    return list(dict.fromkeys(one.sentence for one in judgements))
