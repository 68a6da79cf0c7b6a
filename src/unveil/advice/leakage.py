"""What comes back of a federation's updates at its start, in its middle and at its end, through one obfuscation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from unveil.advice.federation import Phase
from unveil.advice.target import fewest_pictures
from unveil.core.records import Trial
from unveil.gate.conditions import Condition
from unveil.gate.judging import Judgement, Ruling, judge
from unveil.gate.pools import Pool
from unveil.report import summarise


@dataclass(frozen=True, kw_only=True, eq=False)
class Leakage:
    """What comes back through one obfuscation.

    Args:
        judgements: Phase -> what each attack reached there, by the target.
        left_out: Phase -> why clients in it were not attacked, a sentence; a phase of which all were is missing.
    """

    judgements: Mapping[Phase, Sequence[Judgement]]
    left_out: Mapping[Phase, str] = field(default_factory=dict)

    @property
    def worst(self) -> Judgement | None:
        """The judgement that counts: of those with a ruling the one with the least room; None if there is none."""
        judged = [one for one in self._all if one.ruling is not Ruling.UNJUDGED]
        return min(judged, key=lambda one: one.room, default=None)

    @property
    def worst_phase(self) -> Phase | None:
        """The phase of `worst`."""
        return next((phase for phase, found in self.judgements.items() if self.worst in found), None)

    @property
    def ruling(self) -> Ruling:
        """Exceeded in any phase; else not judged where too few clients could be attacked, or nothing be found."""
        if self.worst is None or (self.worst.ruling is Ruling.PASSED and self.unattacked):
            return Ruling.UNJUDGED
        return self.worst.ruling

    @property
    def unattacked(self) -> list[Phase]:
        """Phases in which too few clients could be attacked for the target."""
        return [phase for phase in self.left_out if not self.judgements.get(phase)]

    @property
    def unjudged_phases(self) -> list[Phase]:
        """Phases in which no attack finds anything in the bare update."""
        return [
            phase
            for phase, found in self.judgements.items()
            if found and all(one.ruling is Ruling.UNJUDGED for one in found)
        ]

    @property
    def reason(self) -> str:
        """Why nothing could be judged: what was not attacked, or the sentence of the first judgement."""
        sentences = [self.left_out[phase] for phase in self.unattacked]
        sentences += [one.sentence for one in self._all if one.ruling is Ruling.UNJUDGED]
        return next(iter(sentences), "")

    @property
    def _all(self) -> list[Judgement]:
        return [one for found in self.judgements.values() for one in found]


def judged(
    trials: Sequence[Trial],
    clients: Mapping[Phase, Sequence[str]],
    obfuscation: str,
    target: Condition,
    *,
    left_out: Mapping[Phase, str] | None = None,
) -> Leakage:
    """Judge the trials of one obfuscation by the target, all clients of a phase together.

    Where clients of a phase were left out, the others may be too few to meet the target with 95 % confidence. Then only
    what was measured beyond it counts.

    Args:
        trials: The trials, with those of the baseline.
        clients: Phase -> names of the clients that were attacked in it.
        obfuscation: The obfuscation, as rows name it.
        target: The condition under which the target is missed.
        left_out: Phase -> why clients in it were not attacked, a sentence; None if all were.
    """
    left_out = dict(left_out or {})
    rows = [row for row in summarise(trials) if row.obfuscation == obfuscation] if trials else []
    found: dict[Phase, list[Judgement]] = {}
    for phase, names in clients.items():
        here = sorted((row for row in rows if row.client in names), key=lambda row: row.attack)
        found[phase] = [
            judge(target, Pool(rows=tuple(group), together=True)) for _, group in groupby(here, lambda row: row.attack)
        ]
        if phase in left_out:
            found[phase] = [one for one in found[phase] if _counts(one, target)]
            if names and not found[phase]:
                left_out[phase] += " The pictures of the others are too few for the target."
    return Leakage(judgements=found, left_out=left_out)


def _counts(judgement: Judgement, target: Condition) -> bool:
    """Whether the pictures are enough for the target, or more came back of them than it allows."""
    fewest = fewest_pictures(target)
    is_beyond = judgement.value is not None and target.fails(judgement.value)
    return is_beyond or (fewest is not None and judgement.pool.pictures >= fewest)
