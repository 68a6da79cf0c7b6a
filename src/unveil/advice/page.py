"""What an advice found as one self-contained HTML page, in the style of the report."""

from __future__ import annotations

from dataclasses import dataclass

from unveil.advice.advising import Advice
from unveil.advice.answer import NOT_PROVED, headline, sentences
from unveil.advice.assessment import Assessment
from unveil.advice.pareto import pareto
from unveil.advice.target import written
from unveil.gate.judging import Ruling, number
from unveil.report.formatting import count, listed, plain, ratio
from unveil.report.templates import environment

TEMPLATE = "advice.html.j2"
VERDICTS = {Ruling.PASSED: "meets it", Ruling.EXCEEDED: "misses it", Ruling.UNJUDGED: "not judged"}
BADGES = {Ruling.PASSED: "none", Ruling.EXCEEDED: "leaks", Ruling.UNJUDGED: "inconclusive"}
"""Classes of the report's style sheet. No ruling is green, because a pass promises nothing."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting as a line of a table; each field is text, a dash where there is no number.

    Args:
        obfuscation: SPEC of the obfuscation.
        leakage: What was measured.
        bound: The end of its 95 % interval, which is compared with the target.
        worst_at: The phase and the attack of that value.
        accuracy: Accuracy after the last round, in per cent.
        cost: What was lost of it, in points, with its 95 % interval.
        size: Bytes of all updates.
        smaller: How many times fewer those are than the baseline's.
        verdict: Whether the target is met, in words.
        ruling: The same.
    """

    obfuscation: str
    leakage: str
    bound: str
    worst_at: str
    accuracy: str
    cost: str
    size: str
    smaller: str
    verdict: str
    ruling: Ruling

    @property
    def badge(self) -> str:
        """The class of its badge."""
        return BADGES[self.ruling]


def lines(advice: Advice) -> list[Line]:
    """The baseline and each setting, in the order in which they were tried."""
    return [_line(one, advice.baseline) for one in (advice.baseline, *advice.assessments)]


def _line(one: Assessment, baseline: Assessment) -> Line:
    worst = None if one.leakage is None else one.leakage.worst
    numbers = ["–"] * 2
    if worst is not None:
        numbers = ["–" if n is None else number(n, worst.facts) for n in (worst.value, worst.bound)]
    is_baseline = one is baseline
    interval = f" [{100 * one.cost.low:z.1f}, {100 * one.cost.high:z.1f}]"
    return Line(
        obfuscation=one.obfuscation,
        leakage=numbers[0],
        bound=numbers[1],
        worst_at="–"
        if worst is None or one.leakage is None
        else f"{one.leakage.worst_phase}, {worst.pool.rows[0].attack}",
        accuracy=f"{100 * one.accuracy:.1f}%" + ("" if one.diverged is None else " (diverged)"),
        cost="–" if is_baseline else f"{100 * one.cost.mean:z.1f}{interval}",
        size=in_bytes(one.wire_bits),
        smaller="–" if is_baseline else ratio(baseline.wire_bits / one.wire_bits),
        verdict=VERDICTS[one.ruling],
        ruling=one.ruling,
    )


def in_bytes(bits: float) -> str:
    """A size in bytes with a decimal prefix: `8.6 MB`."""
    size = bits / 8
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def outcome(assessment: Assessment) -> str:
    """One setting in a few words: `meets it, psnr up to 13.2 dB, accuracy 61.0%`."""
    line = _line(assessment, assessment)
    bound = "" if line.bound == "–" else f"leakage {line.leakage}, bound {line.bound}, "
    return f"{line.verdict}: {bound}accuracy {line.accuracy}, {line.size}"


def page(advice: Advice, *, command: str = "") -> str:
    """Return the page as HTML text.

    Args:
        advice: What was found.
        command: The command that found it, shown to the reader; empty from Python.
    """
    question = advice.question
    settings, seeds = question.federation.settings(), question.federation.seeds
    facts = [
        ("Target", written(question.target)),
        ("Model", settings["model"]),
        ("Pictures", settings["images"]),
        ("Clients", f"{settings['clients']}, each {settings['batch']} of {settings['pictures']} pictures a round"),
        ("Local training", settings["training"]),
        (
            "Rounds",
            f"{settings['rounds']}, with {count(len(seeds), 'seed')}: {listed(list(map(str, seeds)))}",
        ),
        ("Trained by", listed(list(advice.trainers))),
        ("Test pictures", str(settings["test"])),
        ("Attacks", ", ".join(map(str, question.auditing.attacks))),
        ("Attacked", f"{question.auditing.clients * settings['batch']} pictures in each phase"),
    ]
    short = headline(advice)
    return (
        environment("advice", "report")
        .get_template(TEMPLATE)
        .render(
            headline=short,
            title=plain(short),
            sentences=sentences(advice),
            facts=facts,
            chart=pareto(advice),
            lines=lines(advice),
            details=_details(advice),
            target=written(question.target),
            not_proved=NOT_PROVED,
            command=command,
        )
    )


def _details(advice: Advice) -> list[tuple[str, str, str, str, str, str]]:
    """Setting, phase, attack, value, bound and ruling of every judgement."""
    return [
        (
            one.obfuscation,
            phase,
            judgement.pool.rows[0].attack,
            "–" if judgement.value is None else number(judgement.value, judgement.facts),
            "–" if judgement.bound is None else number(judgement.bound, judgement.facts),
            VERDICTS[judgement.ruling],
        )
        for one in (advice.baseline, *advice.assessments)
        if one.leakage is not None
        for phase, found in one.leakage.judgements.items()
        for judgement in found
    ]
