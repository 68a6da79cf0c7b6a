"""A condition of a gate: the metric, which of its values is judged, and the limit that it must not pass."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from unveil.core.errors import UsageError, nearest
from unveil.core.files import quoted
from unveil.core.metric import MetricFacts
from unveil.metrics import facts_of

Aggregate = Literal["mean", "worst"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "worst")

WRITTEN = re.compile(r"\s*([^\s<>=%]+)\s*([<>]=?)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")
EXAMPLES = "write it as 'reid_top1 > 0.1', 'reid_top1 > 10%' or 'psnr.worst > 20'"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """When a gate fails: a value of a metric lies beyond a limit, on the side where leakage is.

    Args:
        metric: The metric's key in results.
        aggregate: `mean`, whose bound is judged; or `worst`, the picture that leaks most.
        limit: The limit, in the metric's unit.
        is_strict: Whether the limit itself still passes.
    """

    metric: str
    aggregate: Aggregate
    limit: float
    is_strict: bool

    @property
    def facts(self) -> MetricFacts:
        """What is known of the metric."""
        return facts_of(self.metric)

    @property
    def rule(self) -> str:
        """What is judged, without the limit: `psnr.worst`. It stays the same when a limit changes."""
        return f"{self.metric}.{self.aggregate}"

    def fails(self, value: float) -> bool:
        """Whether a value lies beyond the limit."""
        beyond = value > self.limit if self.facts.leak == "high" else value < self.limit
        return beyond or (value == self.limit and not self.is_strict)

    def __str__(self) -> str:
        sign = ">" if self.facts.leak == "high" else "<"
        what = self.metric if self.aggregate == "mean" else self.rule
        return f"{what} {sign}{'' if self.is_strict else '='} {self.limit:.12g}"


def parse(text: str, known: Collection[str]) -> Condition:
    """Read a condition such as `reid_top1 > 10%`, `psnr.worst > 20` or `lpips < 0.3`.

    Args:
        text: `METRIC[.mean|.worst] > LIMIT`, with `>=`, `<` or `<=` where they fit the metric; `%` after the limit of a
            share.
        known: Keys of the metrics that there are.

    Raises:
        UsageError: The text is no condition, the metric is unknown, the limit cannot be passed, or the condition looks
            away from the side where the metric shows leakage.
    """
    start = f"--fail-on {quoted(text)}"
    found = WRITTEN.fullmatch(text)
    if found is None:
        raise UsageError(f"{start}: expected METRIC > LIMIT; {EXAMPLES}")
    name, sign, number, percent = found.groups()
    metric, aggregate = _parted(start, name, known)
    facts, limit = facts_of(metric), float(number) / (100 if percent else 1)
    right = ">" if facts.leak == "high" else "<"
    if percent and not facts.is_rate:
        raise UsageError(f"{start}: {metric} is no share of pictures; give the limit without %")
    if sign[0] != right:
        raise UsageError(
            f"{start}: a {facts.leak} {metric} means leakage, so a gate fails beyond a limit on that side; write "
            f"'{name} {right} {number}{percent}'"
        )
    if facts.is_rate and not (0 <= limit <= 1 and (limit < 1 or sign == ">=")):
        raise UsageError(f"{start}: {metric} is a share from 0 to 1 and never beyond this limit; write 10% or 0.1")
    return Condition(metric=metric, aggregate=aggregate, limit=limit, is_strict=len(sign) == 1)


def parse_all(texts: Collection[str], known: Collection[str]) -> list[Condition]:
    """Read several conditions; raises a `UsageError` also where two of them judge the same value."""
    conditions: list[Condition] = []
    for text in texts:
        condition = parse(text, known)
        if any(condition.rule == other.rule for other in conditions):
            raise UsageError(f"--fail-on {quoted(text)}: {condition.rule} has a limit already; keep the stricter one")
        conditions.append(condition)
    return conditions


def _parted(start: str, name: str, known: Collection[str]) -> tuple[str, Aggregate]:
    """The metric and the aggregate of `METRIC` or `METRIC.AGGREGATE`."""
    if name in known:
        return name, "mean"
    metric, dot, last = name.rpartition(".")
    if not dot or metric not in known:
        unknown = metric if dot and last in AGGREGATES else name
        raise UsageError(f"{start}: unknown metric {quoted(unknown)}; {nearest(unknown[:60], list(known))}")
    for aggregate in AGGREGATES:
        if last == aggregate:
            return metric, aggregate
    raise UsageError(f"{start}: expected {metric}, {metric}.mean or {metric}.worst, got {quoted(name)}")
