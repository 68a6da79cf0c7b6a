"""The conclusion of an audit: one headline, at most one recommendation, and what the audit does not prove."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unveil.report import formatting
from unveil.report.criteria import found_something, without_originals
from unveil.report.levels import FEW_PICTURES, Level
from unveil.report.rows import Row
from unveil.report.worst import worst_rows

OPENINGS = {
    Level.LEAKS: "The pictures came back through",
    Level.PARTLY: "Something of the pictures came back through",
}

NOTHING_LOST_DB = 0.5
"""An obfuscation hid nothing measurable if the upper end of its cost to the attacker is below this, in dB."""

MOST_NAMES = 4
"""Most obfuscations that a sentence names."""

LOWER_BOUND = "A failed attack is a lower bound on what an update gives away, never a proof that it gives nothing away."
"""What no audit proves, in one sentence."""

NOT_PROVED = (
    f"{LOWER_BOUND} Stronger attacks exist and better ones will be found; with more steps, several rounds or a prior "
    "learned from similar pictures, more may come back.",
    "Each trial looks at one update of one client. A real client sends many, and what one hides another may "
    "show; an obfuscation that carries its error over to the next round sends later what it kept back.",
    "The attacker was granted the knowledge listed with each result. An attacker who knows less may find less; "
    "one who knows more may find more. Where labels are listed as known, nothing was tested about finding them.",
    "The result holds for the model, its weights, the pictures and the batch sizes that were tested, and for no "
    "others. The intervals say how much the mean would move with other pictures of the same kind; they do not "
    "cover other models, data or attacks.",
    "PSNR and SSIM compare pixels. A picture with low scores can still show who or what is on it: look at the "
    "pictures. Nothing was tested about what can be inferred without rebuilding pictures, such as who took part in "
    "training.",
    "A verdict says nothing about differential privacy. What holds of that, if anything, stands under what theory "
    "allows any attack, with what it rests on. None of this is a statement about any law.",
)
"""Limits that every report prints."""


def headline(rows: Sequence[Row]) -> str:
    """The whole audit in one or two sentences. Backticks mark names."""
    tested = [row for row in rows if not row.is_baseline]
    if not rows:
        return "Nothing was audited: the results hold no trial."
    if all(without_originals(row) for row in rows):
        found = max(rows, key=_explained).plausibility
        return (
            ""
            if found is None
            else (
                f"Not scored, because the originals are not at hand: the pictures that were rebuilt explain "
                f"{found.explained:.0%} of the update, those of the control {found.control:.0%}."
            )
        )
    if not tested:
        return _only_baselines(rows)
    worst = worst_rows(tested)
    total, count = len(worst), Counter(row.verdict.level for row in worst)
    for level, opening in OPENINGS.items():
        if count[level]:
            cases = [row for row in worst if row.verdict.level is level]
            return f"{opening} {_of(count[level], total)}. {_most(cases)}"
    if not count[Level.NONE]:
        return f"Inconclusive: {_doubt(tested)}"
    rest = count[Level.INCONCLUSIVE]
    doubt = f" {rest} of {total} could not be judged." if rest else ""
    return (
        f"No leakage was found behind {_of(count[Level.NONE], total)}, although the same attack did find something "
        f"in the bare update; a stronger attack may find more.{doubt}"
    )


def recommendation(rows: Sequence[Row]) -> str:
    """Advice in one or two sentences; empty where the results support none. Backticks mark names."""
    tested = [row for row in rows if not row.is_baseline]
    levels: dict[str, set[Level]] = {}
    for row in tested:
        levels.setdefault(row.obfuscation, set()).add(row.verdict.level)
    leaking = [name for name, found in levels.items() if Level.LEAKS in found]
    strong = [
        row.obfuscation
        for row in tested
        if levels[row.obfuscation] == {Level.NONE}
        and row.baseline is not None
        and row.baseline.verdict.level is Level.LEAKS
        and row.pictures >= FEW_PICTURES
    ]
    advice = []
    if leaking:
        advice.append(f"Do not count {_names(leaking)} as a defence for this model and these pictures.")
    if strong:
        advice.append(
            f"Look next at {_names(strong)}: this attack found nothing there, although it rebuilt the pictures from "
            "the bare update. Try stronger attacks, and check the accuracy of the trained model, before relying on it."
        )
    return " ".join(advice)


def _names(obfuscations: Sequence[str]) -> str:
    """The names, or the first ones and the number of the others if there are many."""
    names = [f"`{name}`" for name in dict.fromkeys(obfuscations)]
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} others"]
    return formatting.listed(names)


def _of(number: int, total: int) -> str:
    if total == 1:
        return "the obfuscation that was tested"
    return f"all {total} obfuscations tested" if number == total else f"{number} of {total} obfuscations tested"


def _only_baselines(rows: Sequence[Row]) -> str:
    best = max(rows, key=_psnr)
    verdict = best.verdict
    if verdict.level is Level.INCONCLUSIVE:
        return f"Inconclusive: {verdict.sentence} No obfuscation was tested."
    return f"Without any obfuscation: {verdict.sentence[0].lower()}{verdict.sentence[1:]} No obfuscation was tested."


def _most(rows: Sequence[Row]) -> str:
    """A sentence on the obfuscation behind which most came back."""
    row = max(rows, key=lambda row: (row.cost is not None, _gain(row)))
    sends = f"sends {formatting.ratio(row.compression)} fewer bits" if row.compression > 1.05 else "saves no bits"
    reached = formatting.decibels(_psnr(row))
    if row.baseline is None or row.cost is None:
        return f"`{row.obfuscation}` {sends}, and {reached} came back; there is no run without it to compare with."
    bare = formatting.decibels(_psnr(row.baseline))
    if row.baseline.verdict.level is Level.INCONCLUSIVE:
        return (
            f"`{row.obfuscation}` {sends}, and {reached} came back; nothing was found without it ({bare}), so what it "
            "hides is not known."
        )
    if row.cost.at_most < NOTHING_LOST_DB:
        return f"`{row.obfuscation}` {sends} and hides nothing measurable: {reached} against {bare} without it."
    return f"`{row.obfuscation}` {sends}, and the attack still reaches {reached} against {bare} without it."


def _doubt(tested: Sequence[Row]) -> str:
    if all(row.baseline is None for row in tested):
        return "the attack found nothing, and was never tried on the bare update."
    if all(row.baseline is not None and not found_something(row.baseline) for row in tested):
        return "the attack fails even on the bare update, so nothing was learned about the obfuscations."
    return "no test says anything about its obfuscation; the reason stands with each."


def _gain(row: Row) -> float:
    gain = row.scores["psnr"].gain if "psnr" in row.scores else None
    return float("-inf") if gain is None else gain.mean


def _explained(row: Row) -> float:
    return float("-inf") if row.plausibility is None else row.plausibility.explained


def _psnr(row: Row) -> float:
    return row.scores["psnr"].mean.mean if "psnr" in row.scores else float("-inf")
