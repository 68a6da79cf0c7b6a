"""Judging one pool by one condition: passed, exceeded, or not judged and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from unveil.core.metric import MetricFacts
from unveil.gate.conditions import Condition
from unveil.gate.pools import Pool, mean_of, scores_of, unscored, worst_of
from unveil.metrics import FACTS, NEEDS
from unveil.report.criteria import without_originals
from unveil.report.formatting import count
from unveil.report.rows import Row
from unveil.report.statistics import Interval, wilson

MOST_PICTURES = 100_000
"""Most pictures that a sentence says would do."""


class Ruling(Enum):
    """What a gate says of one value; the value is the word in tables."""

    PASSED = "passed"
    EXCEEDED = "exceeded"
    UNJUDGED = "not judged"


@dataclass(frozen=True, kw_only=True, eq=False)  # each is itself: comparing rows number by number takes long
class Judgement:
    """One pool, judged by one rule.

    Args:
        rule: What was judged, which stays the same when a limit changes: `psnr.worst`.
        condition: The rule with its limit: `psnr.worst > 20`.
        pool: What was judged.
        facts: Facts of the metric.
        value: What was measured, in the metric's unit; None if nothing was.
        bound: What is compared with the limit: the end of the 95 % interval on the side where leakage is, or the value
            itself; None if nothing is.
        limit: The limit, in the metric's unit.
        room: How far the bound is from the limit, in the metric's unit; below zero beyond it, infinite without a bound.
        ruling: The ruling.
        sentence: The ruling with its numbers or its reason, and what to do.
        since: The earlier audit over which a rise was judged; empty for a limit.
    """

    rule: str
    condition: str
    pool: Pool
    facts: MetricFacts
    value: float | None
    bound: float | None
    limit: float
    room: float
    ruling: Ruling
    sentence: str
    since: str = ""


def judge(condition: Condition, pool: Pool) -> Judgement:
    """Judge a pool by a condition.

    What was measured beyond the limit counts whatever the baseline did. A bound counts only where the attack works.
    Batches whose attack fails on the bare update are left out where it works on others.
    """
    rows, facts = _decisive(condition, pool), condition.facts
    interval = mean_of(rows, facts) if condition.aggregate == "mean" else None
    value = _measured_by(condition, rows)
    bound = value if interval is None else _leaking_end(interval, facts)
    reason = _why_not(condition, pool, rows, interval)
    if value is not None and bound is not None and condition.fails(value if reason else bound):
        ruling, sentence = Ruling.EXCEEDED, _beyond(condition, rows, value, bound, interval)
    elif reason or value is None or bound is None:
        ruling, sentence = Ruling.UNJUDGED, reason
    else:
        ruling, sentence = Ruling.PASSED, _within(condition, rows, value, bound)
    return Judgement(
        rule=condition.rule,
        condition=str(condition),
        pool=pool,
        facts=facts,
        value=value,
        bound=bound,
        limit=condition.limit,
        room=math.inf if bound is None else (condition.limit - bound) * (1 if facts.leak == "high" else -1),
        ruling=ruling,
        sentence=sentence,
    )


def _decisive(condition: Condition, pool: Pool) -> tuple[Row, ...]:
    """The conclusive rows; all where none is, or where all together were measured beyond the limit."""
    measured = _measured_by(condition, pool.rows)
    is_beyond = measured is not None and condition.fails(measured)
    conclusive = pool.conclusive(condition.facts)
    return pool.rows if is_beyond or not conclusive else conclusive


def _measured_by(condition: Condition, rows: tuple[Row, ...]) -> float | None:
    """The value that the rows measured, without a bound; None if they have none."""
    if condition.aggregate == "worst":
        return worst_of(rows, condition.facts)
    interval = mean_of(rows, condition.facts)
    return None if interval is None else interval.mean


def _leaking_end(interval: Interval, facts: MetricFacts) -> float:
    """The end of an interval on the side where leakage is; infinitely far where one picture gives no interval."""
    return interval.at_most if facts.leak == "high" else interval.at_least


def _why_not(condition: Condition, pool: Pool, rows: tuple[Row, ...], interval: Interval | None) -> str:
    """Why a pool cannot be judged, and what to do; empty where it can."""
    if reason := untested(pool, condition.facts) or uncomputed(rows, condition.metric):
        return reason
    if interval is not None and not interval.is_known:
        return "One picture has no interval; give the client more pictures, or a condition on the worst one."
    return ""


def untested(pool: Pool, facts: MetricFacts) -> str:
    """Why the attack on a pool says nothing by a metric, and what to do; empty where it does."""
    if any(without_originals(row) for row in pool.rows):
        return "The pictures of the recorded update are not known, so nothing is scored; audit it with --truth."
    if pool.conclusive(facts):
        return ""
    return (
        f"{pool.rows[0].verdict.sentence} Audit with an attack that finds something without the obfuscation: more "
        "steps, another attack, or a smaller batch."
    )


def uncomputed(rows: Sequence[Row], metric: str) -> str:
    """Why a metric has no value, or not of every picture, and what to do; empty where it has."""
    if len(scores_of(rows, metric)) < len(rows):
        return f"{metric} was not computed; {how_to_get(metric)} and run the audit into another folder."
    missing, total = unscored(rows, metric), sum(row.pictures * len(row.stops) for row in rows)
    if not missing:
        return ""
    return (
        f"{missing} of {total} scores of {metric} are no numbers (NaN); look in the report for the pictures without "
        "one, and audit with an attack or pictures that have them."
    )


def how_to_get(metric: str) -> str:
    """What an audit file needs for a metric, as a request."""
    if metric in NEEDS:
        return f"set {NEEDS[metric]} under metrics in the audit file"
    if metric in FACTS:
        return "give the client larger pictures" if metric.startswith("ssim") else "give the originals with --truth"
    return "name it in others under metrics in the audit file"


def _beyond(condition: Condition, rows: tuple[Row, ...], value: float, bound: float, interval: Interval | None) -> str:
    """The sentence on a value beyond the limit; where only its bound is, with the pictures that would do."""
    sentence = f"{_measured(condition, rows, value, bound)}, beyond the limit of {_number(condition.limit, condition)}."
    blind = [score.blind for score in scores_of(rows, condition.metric) if score.blind is not None]
    if blind and condition.fails(fmean(blind)):
        return f"{sentence} A blind guess scores {_number(fmean(blind), condition)}: no update passes this limit."
    if interval is None or condition.fails(value):
        return sentence
    needed = _pictures_needed(condition, sum(row.pictures for row in rows), interval)
    enough = f"; about {needed} pictures of the same scores would pass" if needed else ""
    return f"{sentence} What was measured is within it{enough}."


def _within(condition: Condition, rows: tuple[Row, ...], value: float, bound: float) -> str:
    """The sentence on a value within the limit."""
    sentence = f"{_measured(condition, rows, value, bound)}, within the limit of {_number(condition.limit, condition)}."
    if condition.aggregate == "worst":
        tried = sum(row.pictures for row in rows)
        share = wilson(0, tried).high
        sentence += f" With {count(tried, 'picture')}, up to {share:.0%} of such pictures may leak more (95 %)."
    return sentence


def _measured(condition: Condition, rows: tuple[Row, ...], value: float, bound: float) -> str:
    """The value with its bound, as the start of a sentence."""
    pictures = count(sum(row.pictures for row in rows), "picture")
    if condition.aggregate == "worst":
        return f"{condition.metric} of the worst of {pictures} is {_number(value, condition)}"
    direction = "up" if condition.facts.leak == "high" else "down"
    return (
        f"{condition.metric} is {_number(value, condition)} over {pictures}, {direction} to "
        f"{_number(bound, condition)} (95 %)"
    )


def _number(value: float, condition: Condition) -> str:
    return number(value, condition.facts)


def number(value: float, facts: MetricFacts) -> str:
    """A value with its unit, shares in per cent: `22.4 dB`, `12.5%`."""
    if not math.isfinite(value):
        return "any value"
    if facts.is_rate:
        return f"{100 * value:.1f}%"
    return f"{value:z.{facts.digits}f}{f' {facts.unit}' if facts.unit else ''}"


def _pictures_needed(condition: Condition, pictures: int, interval: Interval) -> int | None:
    """About how many independent pictures of the same scores would bring the bound within the limit; None if none."""
    facts, room = condition.facts, abs(condition.limit - interval.mean)
    width = abs(_leaking_end(interval, facts) - interval.mean)
    if room == 0 or not math.isfinite(width):
        return None
    if not facts.is_rate:
        needed = math.ceil(pictures * (width / room) ** 2)
        return needed if needed <= MOST_PICTURES else None
    tries = pictures
    while condition.fails(wilson(interval.mean * tries, tries).high):
        tries = math.ceil(tries * 1.02)
        if tries > MOST_PICTURES:
            return None
    return tries
