"""The answer of an advice in plain sentences. Backticks mark names."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from unveil.advice.advising import Advice
from unveil.advice.assessment import Assessment
from unveil.advice.candidates import Range, search
from unveil.advice.target import written
from unveil.gate.judging import Judgement, Ruling, number
from unveil.gate.pools import scores_of
from unveil.report.conclusion import LOWER_BOUND
from unveil.report.formatting import listed, ratio
from unveil.report.statistics import Interval

NOT_PROVED = (
    f"{LOWER_BOUND} A setting that meets the target held it against these attacks, with what they were granted, on "
    "these updates of these pictures; a stronger attack, another model or several rounds together may find more.",
    "Each setting was attacked on the same pictures, and the one that is named was chosen by them. Audit it once more "
    "on other pictures before you rely on it.",
    "A search takes the strong end of a range to protect more than the weak one; between two settings that were tried, "
    "nothing is known.",
)
"""What a setting that meets the target does not prove."""


def ranked(advice: Advice) -> list[Assessment]:
    """The settings that meet the target, cheapest first: by accuracy to a tenth of a point, then by fewest bytes."""
    met = [one for one in (advice.baseline, *advice.assessments) if one.met]
    return sorted(met, key=lambda one: (-round(one.accuracy, 3), one.wire_bits))


def headline(advice: Advice) -> str:
    """The answer in one or two sentences."""
    target, best = f"`{written(advice.question.target)}`", next(iter(ranked(advice)), None)
    if advice.baseline.ruling is Ruling.UNJUDGED:
        leakage = advice.baseline.leakage
        why = "" if leakage is None or leakage.unattacked else " no attack finds anything in the bare update."
        return f"Nothing could be judged:{why} {_reason(advice.baseline)}"
    if best is not None and best is advice.baseline:
        return f"The federation meets {target} without any obfuscation."
    if best is not None:
        return f"The cheapest setting that meets {target} is `{best.obfuscation}`: {_price(best, advice.baseline)}."
    judged = [one for one in advice.assessments if one.ruling is Ruling.EXCEEDED]
    if not judged:
        why = "the baseline alone used up the budget" if advice.left_out and not advice.assessments else "reasons below"
        return f"No setting could be judged by {target}: {why}."
    nearest = max(judged, key=_room)
    return f"No setting meets {target}. The nearest is `{nearest.obfuscation}`: {_reached(nearest)}."


def sentences(advice: Advice) -> list[str]:
    """What else was found: what meets the target, what does not, what could not be judged, and what was left out."""
    found = [_blind(advice)]
    found += [_searched(one, advice) for one in advice.question.candidates if isinstance(one, Range)]
    found += [
        _group(
            "Also meeting it", [f"`{one.obfuscation}` ({_price(one, advice.baseline)})" for one in ranked(advice)[1:]]
        )
    ]
    missed = [one for one in (advice.baseline, *advice.assessments) if one.ruling is Ruling.EXCEEDED]
    found += [_group("Not meeting it", [f"`{one.obfuscation}` ({_reached(one)})" for one in missed])]
    found += [f"`{one.obfuscation}` could not be judged: {_reason(one)}" for one in advice.assessments if _is_open(one)]
    found += [
        f"`{one.obfuscation}`: {reason} The other clients were judged there."
        for one in (advice.baseline, *advice.assessments)
        if one.leakage is not None
        for phase, reason in one.leakage.left_out.items()
        if phase not in one.leakage.unattacked
    ]
    for one in advice.assessments:
        if one.diverged is None and one.is_chance:
            found.append(
                f"Through `{one.obfuscation}` the trained model is no better than a guess: {100 * one.accuracy:.1f} % "
                "right."
            )
    found += [
        f"`{one.obfuscation}`: {unjudged} no attack finds anything in the bare update, so nothing was judged there; "
        "the target was judged in the other rounds."
        for one in (advice.baseline, *advice.assessments)
        if one.ruling is not Ruling.UNJUDGED and (unjudged := _phases(one))
    ]
    found += [
        _group("Left out or not finished, because the budget was used up", [f"`{one.text}`" for one in advice.left_out])
    ]
    return [sentence for sentence in found if sentence]


def _blind(advice: Advice) -> str:
    """That a blind guess already misses the target, so that no setting can meet it; empty where it does not."""
    worst = None if advice.baseline.leakage is None else advice.baseline.leakage.worst
    rows = () if worst is None else worst.pool.rows
    target = advice.question.target
    guesses = [score.blind for score in scores_of(rows, target.metric) if score.blind is not None]
    if not guesses or not target.fails(fmean(guesses)):
        return ""
    return (
        f"A blind guess, a grey picture without any update, scores {number(fmean(guesses), target.facts)}: no setting "
        "can meet this target."
    )


def _is_open(assessment: Assessment) -> bool:
    return assessment.ruling is Ruling.UNJUDGED


def _group(start: str, names: Sequence[str]) -> str:
    return f"{start}: {listed(list(names))}." if names else ""


def _searched(candidate: Range, advice: Advice) -> str:
    """What the search of a range found; empty where it was not begun."""
    met = {one.obfuscation: one.decided for one in advice.assessments}
    found = search(candidate, met, advice.question.steps)
    if found.enough is None:
        if met.get(candidate.at(candidate.strong)) is False:
            return f"Even the strong end of `{candidate.text}` does not meet the target."
        return f"No setting of `{candidate.text}` that was tried meets the target." if found.fails else ""
    below = f"; the next weaker one that was tried, `{found.fails}`, does not" if found.fails else ""
    return f"Of `{candidate.text}` the weakest setting found that meets the target is `{found.enough}`{below}."


def _price(assessment: Assessment, baseline: Assessment) -> str:
    return f"it {cost(assessment.cost)} and {saving(assessment, baseline)}"


def cost(lost: Interval) -> str:
    """What a setting costs in accuracy: `costs 1.3 points of accuracy [0.2, 2.4]`."""
    interval = f"[{100 * lost.low:z.1f}, {100 * lost.high:z.1f}]"
    if lost.mean < 0:
        return f"gains {-100 * lost.mean:.1f} points of accuracy (cost {interval})"
    return f"costs {100 * lost.mean:z.1f} points of accuracy {interval}"


def saving(assessment: Assessment, baseline: Assessment) -> str:
    """What a setting saves on the wire: `sends 6.4× fewer bytes`."""
    factor = baseline.wire_bits / assessment.wire_bits
    if 0.99 < factor < 1.01:
        return "sends as many bytes"
    return f"sends {ratio(factor)} fewer bytes" if factor > 1 else f"sends {ratio(1 / factor)} as many bytes"


def _reached(assessment: Assessment) -> str:
    one = None if assessment.leakage is None else assessment.leakage.worst
    return "" if one is None else f"{reached(one)}, at the {assessment.leakage.worst_phase} of the training"  # type: ignore[union-attr]


def reached(one: Judgement) -> str:
    """A value with its bound: `psnr 15.2 dB, up to 16.1 dB`."""
    value, bound = (0.0 if n is None else n for n in (one.value, one.bound))
    direction = "up" if one.facts.leak == "high" else "down"
    up_to = "" if value == bound else f", {direction} to {number(bound, one.facts)}"
    return f"{one.rule.removesuffix('.mean')} {number(value, one.facts)}{up_to}"


def _room(assessment: Assessment) -> float:
    one = None if assessment.leakage is None else assessment.leakage.worst
    return float("-inf") if one is None else one.room


def _reason(assessment: Assessment) -> str:
    if assessment.diverged is not None:
        return (
            f"its training diverges in round {assessment.diverged}, so it has no later updates to attack and no model "
            "that is better than a guess."
        )
    return "" if assessment.leakage is None else assessment.leakage.reason


def _phases(assessment: Assessment) -> str:
    """The phases in which nothing is found in the bare update, as the start of a sentence; empty if there are none."""
    unjudged = [] if assessment.leakage is None else assessment.leakage.unjudged_phases
    return f"at the {listed(list(unjudged))} of the training" if unjudged else ""
