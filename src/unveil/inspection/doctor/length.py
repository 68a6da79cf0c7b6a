"""Sign, learning rate and loss reduction: the direction of an update, and its length beside what its manifest says."""

from __future__ import annotations

import math

from unveil.inspection.doctor.evidence import Evidence
from unveil.inspection.doctor.examined import Examined
from unveil.inspection.doctor.faults import Fault, Findings, Untold
from unveil.inspection.doctor.gain import LARGEST, Gains
from unveil.inspection.fingerprint.sparsity import plain_number

SIGN, RATE, REDUCTION = "sign", "learning rate", "loss reduction"

MARGIN = 8.0
"""Nats by which another length must be likelier before the manifest's is called wrong: odds of 3,000 to 1."""
CERTAIN = 6.0
"""Nats by which one explanation must be likelier than all others before its fact is given: odds of 400 to 1."""
SIMPLER = 2.0
"""Nats that a sign or a loss reduction may be less likely than a learning rate: they have no number to choose."""
NEAR = 1.4
"""Factor by which the length of one step may be off: mean predictions of the client's pictures are not known."""
FINE = 1.05
"""Distance of two ratios that are tried, within which a learning rate of few digits is looked for."""
DRIFT = 4.0
"""Factor by which several steps may be shorter than as many first steps, because the predictions follow the labels."""


def length(evidence: Evidence) -> Findings:
    """Compare the update's sign and length with what the manifest says, by the counts of the classes."""
    examined, found = evidence.examined, evidence.gains
    if isinstance(found, str):
        for name in (SIGN, RATE, REDUCTION):
            yield Untold(name=name, reason=found)
        return
    if examined.length is None:
        yield from _sign_alone(examined, found)
        return
    low, high = 1 / (NEAR if examined.steps == 1 else DRIFT), NEAR
    if found.cost(low, high) < MARGIN:
        yield from _undecided(found)
        return
    yield from _wrong(examined, found, low, high)


def _undecided(found: Gains) -> Findings:
    """What an update does not tell although its length may be right."""
    if found.cost(-LARGEST, 0) < CERTAIN:
        yield Untold(name=SIGN, reason="counts of the classes explain the opposite sign nearly as well")
    if found.cost(9, LARGEST) < CERTAIN:
        yield Untold(name=RATE, reason="counts of the classes explain a much longer update nearly as well")
        yield Untold(name=REDUCTION, reason="counts of the classes explain a much longer update nearly as well")


def _sign_alone(examined: Examined, found: Gains) -> Findings:
    """The sign where the length is not known."""
    for name in (RATE, REDUCTION):
        yield Untold(
            name=name, reason="the manifest does not say learning rate, steps and SGD, or the update was clipped"
        )
    right, wrong = found.cost(0, LARGEST), found.cost(-LARGEST, 0)
    if right - wrong >= MARGIN:
        yield _sign(examined, f"odds of {_odds(right - wrong)} to 1 against the recorded sign")
    elif wrong - right < CERTAIN:
        yield Untold(name=SIGN, reason="counts of the classes explain both signs nearly alike")


def _wrong(examined: Examined, found: Gains, low: float, high: float) -> Findings:
    """Name the likeliest explanation of a length or sign that is not the manifest's."""
    size = float(examined.batch_size or 1)
    ratio = 1 / size if examined.facts.loss_reduction.value == "sum" else size
    costs = {
        SIGN: found.cost(-high, -low),
        REDUCTION: found.cost(ratio * low, ratio * high) if size > 1 else math.inf,
        RATE: found.cost(1 / LARGEST, LARGEST),
    }
    off = f"{_odds(found.cost(low, high))} to 1 against the length of the manifest"
    best = min(costs.values())
    if found.best < 0 and costs[SIGN] > best + SIMPLER and found.cost(-LARGEST, 0) < costs[RATE] - SIMPLER:
        yield _sign(examined, f"odds of {off}")
        yield _rate(examined, found, off, sign=-1, is_certain=False)
    elif costs[SIGN] <= best + SIMPLER:
        others = min(costs[RATE], costs[REDUCTION]) - costs[SIGN]
        yield _sign(examined, f"odds of {_odds(others)} to 1 against every length of the recorded sign")
    elif costs[REDUCTION] <= costs[RATE] + SIMPLER and _is_near(found, ratio, examined):
        said = "mean" if ratio < 1 else "sum"
        yield Fault(
            name=REDUCTION,
            severity="error",
            evidence=f"the update is {_shown(found.best)} times as long as the manifest says, and a step has "
            f"{size:g} pictures; odds of {off}",
            fix=f"the client's loss is the {said} over the pictures of a step: say so",
            fact=f"loss_reduction={said}",
            instead=(f"the learning rate is {_shown(found.best)} times the manifest's",),
        )
    else:
        yield _rate(examined, found, off, sign=1, is_certain=found.cost(-LARGEST, 0) >= CERTAIN)


def _is_near(found: Gains, ratio: float, examined: Examined) -> bool:
    """Whether a ratio is among the likely ones; several steps may be shorter than it."""
    likely = found.interval(SIMPLER, sign=1)
    slack = 1.1 if examined.steps == 1 else DRIFT
    return likely is not None and likely[0] / 1.1 <= ratio <= likely[1] * slack


def _sign(examined: Examined, evidence: str) -> Fault:
    is_weights = bool(examined.recording.client)
    return Fault(
        name=SIGN,
        severity="error",
        evidence=f"with the opposite sign the last layer gives whole counts of the classes: {evidence}",
        fix="global/ and client/ seem to be exchanged; record them the other way round"
        if is_weights
        else "differences are value after minus value before, and gradients point up the loss; say that it is reversed",
        fact=None if is_weights else "sign=reversed",
    )


def _rate(examined: Examined, found: Gains, off: str, *, sign: int, is_certain: bool) -> Fault:
    interval = found.interval(SIMPLER, sign=sign) or (abs(found.best), abs(found.best))
    low, high = sorted(map(abs, interval))
    said = examined.facts.learning_rate.value
    is_sharp = high / low <= NEAR**2
    fact = None
    if is_sharp and is_certain and said is not None and not examined.recording.gradient:
        slack = FINE if examined.steps == 1 else NEAR
        fact = f"learning_rate={plain_number(said * low / slack, said * high * slack):g}"
    return Fault(
        name=RATE,
        severity="error",
        evidence=f"the update is {_range(low, high)} times as long as the manifest says; odds of {off}",
        fix="record the gradient as it is, without a learning rate"
        if examined.recording.gradient
        else "correct the learning rate, or the steps or momentum that it is multiplied with",
        fact=fact,
        instead=("steps, momentum or loss reduction are not those of the manifest",),
    )


def _range(low: float, high: float) -> str:
    if high >= LARGEST:
        return f"more than {_shown(low)}"
    return _shown(low) if high / low < 1.02 else f"{_shown(low)} to {_shown(high)}"


def _shown(ratio: float) -> str:
    return f"{ratio:.2g}"


def _odds(nats: float) -> str:
    return f"{math.exp(min(nats, 16.0)):,.0f}" if nats < 16 else "more than 8,000,000"
