"""The verdict on one row: the first rule that holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unveil.report.criteria import all_diverged, found_something, leaks, partly_leaks, unmeasured, without_originals
from unveil.report.explanation import bound, caveats, numbers, reasons, shown_by, single, unscored
from unveil.report.levels import Level, Verdict
from unveil.report.rows import Row


@dataclass(frozen=True)
class Rule:
    """A verdict and its condition.

    Args:
        level: The level of the verdict.
        holds: Whether a row meets the condition.
        sentence: The sentence of the verdict for a row.
    """

    level: Level
    holds: Callable[[Row], bool]
    sentence: Callable[[Row], str]


def judge(row: Row) -> Verdict:
    """The verdict on one row: that of the first rule in `RULES` that holds."""
    rule = next(rule for rule in RULES if rule.holds(row))
    return Verdict(rule.level, rule.sentence(row), reasons(row), caveats(row))


RULES: tuple[Rule, ...] = (
    Rule(Level.INCONCLUSIVE, without_originals, unscored),
    Rule(Level.INCONCLUSIVE, unmeasured, lambda row: "PSNR or the blind guess beside it is missing from the results."),
    Rule(Level.LEAKS, leaks, lambda row: f"The pictures came back: {numbers(row)}{single(row)}."),
    Rule(Level.PARTLY, partly_leaks, lambda row: f"Something came back{shown_by(row)}: {numbers(row)}{single(row)}."),
    Rule(
        Level.INCONCLUSIVE,
        all_diverged,
        lambda row: f"Every run of the attack diverged, so its failure says nothing: {numbers(row)}.",
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.is_baseline,
        lambda row: f"This attack fails even on the bare update: {numbers(row)}.",
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.baseline is None,
        lambda row: (
            f"This attack found nothing ({numbers(row)}), but was never tried on the bare update, "
            "so the obfuscation is untested."
        ),
    ),
    Rule(
        Level.INCONCLUSIVE,
        lambda row: row.baseline is not None and not found_something(row.baseline),
        lambda row: f"This attack fails even on the bare update, so the obfuscation is untested: {numbers(row)}.",
    ),
    Rule(
        Level.NONE,
        lambda row: True,
        lambda row: f"No leakage found by an attack that works here: {numbers(row)}; {bound(row)}.",
    ),
)
"""In order of precedence: a found leak comes before every doubt about the attack."""
