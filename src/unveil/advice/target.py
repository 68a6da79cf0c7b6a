"""The target: the leakage that a setting may have at most, judged on the upper end of a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Collection

from unveil.core.errors import UsageError, nearest
from unveil.core.files import quoted
from unveil.gate.conditions import WRITTEN, Condition, parse
from unveil.gate.judging import how_to_get, number
from unveil.report.formatting import count
from unveil.report.statistics import wilson

OPPOSITE = {"<=": ">", "<": ">=", ">=": "<", ">": "<="}
"""How a target is met -> how a gate's condition fails."""

EXAMPLES = "write it as 'reid_top1 <= 0.05', 'reid_top1 <= 5%' or 'psnr.worst <= 14'"


def parse_target(text: str, known: Collection[str], computed: Collection[str]) -> Condition:
    """Read a target such as `reid_top1 <= 5%` or `psnr.worst <= 14`.

    Args:
        text: `METRIC[.mean|.worst] <= LIMIT`, with `<`, or `>=` and `>` for metrics whose low values mean leakage.
        known: Keys of the metrics that there are.
        computed: Keys of those that are computed.

    Returns:
        The condition under which the target is missed.

    Raises:
        UsageError: The text is no target, looks away from leakage, or its metric is unknown or not computed.
    """
    start = f"target {quoted(text)}"
    found = WRITTEN.fullmatch(text)
    if found is None:
        raise UsageError(f"{start}: expected METRIC <= LIMIT; {EXAMPLES}")
    name, sign, limit, percent = found.groups()
    try:
        condition = parse(f"{name} {OPPOSITE[sign]} {limit}{percent}", known)
    except UsageError as error:
        metric = name if name in known else name.rpartition(".")[0] or name
        if metric not in known:
            raise UsageError(f"{start}: unknown metric {quoted(metric)}; {nearest(metric[:60], list(known))}") from None
        reason = str(error).partition(": ")[2].partition("; write")[0]
        raise UsageError(f"{start}: {reason}; {EXAMPLES}") from None
    if condition.metric not in computed:
        raise UsageError(f"{start}: {condition.metric} is not computed; {how_to_get(condition.metric)}")
    return condition


def written(target: Condition) -> str:
    """Return the target as a user writes it."""
    sign = {">": "<=", "<": ">="}[">" if target.facts.leak == "high" else "<"]
    what = target.metric if target.aggregate == "mean" else target.rule
    return f"{what} {sign if target.is_strict else sign[0]} {number(target.limit, target.facts)}"


def refuse_too_few(target: Condition, pictures: int) -> None:
    """Raise a `UsageError` if no result on so few pictures could meet the target with 95 % confidence.

    Args:
        target: The target.
        pictures: Number of pictures that are attacked in each phase.
    """
    if target.aggregate == "worst":
        return
    if not target.facts.is_rate:
        if pictures < 2:
            raise UsageError(
                f"target {written(target)}: one picture gives no confidence interval; attack at least 2, by a larger "
                "batch or more clients"
            )
        return
    best = 0 if target.facts.leak == "high" else 1
    needed = pictures_needed(target)
    if needed is None:
        raise UsageError(f"target {written(target)}: no number of pictures shows that with 95 % confidence; raise it")
    if pictures < needed:
        bound = wilson(best * pictures, pictures)
        end = bound.high if best == 0 else bound.low
        raise UsageError(
            f"target {written(target)}: {count(pictures, 'picture')} are too few for 95 % confidence, because even the "
            f"best result on them is only known up to {number(end, target.facts)}; {needed} would do: more clients, or "
            "a larger batch"
        )


def fewest_pictures(target: Condition) -> int | None:
    """Return how many pictures can show that a target is met with 95 % confidence; None if no number can."""
    if target.aggregate == "worst":
        return 1
    return pictures_needed(target) if target.facts.is_rate else 2


def pictures_needed(target: Condition) -> int | None:
    """Return the fewest pictures whose best result meets a target on a rate; None if no number does."""
    best, most = (0 if target.facts.leak == "high" else 1), 1 << 24

    def is_met(pictures: int) -> bool:
        bound = wilson(best * pictures, pictures)
        return not target.fails(bound.high if best == 0 else bound.low)

    if not is_met(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = math.floor((low + high) / 2)
        low, high = (low, middle) if is_met(middle) else (middle, high)
    return high
