"""Candidates: obfuscations to compare, and kinds with a range that is searched for the weakest setting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unveil.core.errors import UsageError
from unveil.core.files import quoted
from unveil.core.protocols import Obfuscation
from unveil.core.records import BASELINE
from unveil.obfuscations import parse

RANGE = re.compile(r"(\w+)=([^,+=\s]+?)\.\.([^,+=\s]+)")
EXAMPLE = "write the weaker end first, as in gaussian:relative=0.1..10 or topk:density=0.5..0.001"
DIGITS = 3
"""Significant digits of a searched setting."""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One obfuscation.

    Args:
        text: Its SPEC.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class Range:
    """A kind of obfuscation with a range of one setting.

    Args:
        text: The SPEC with its range.
        before, after: The SPEC before and after the setting's value.
        weak: The end at which the obfuscation is weaker.
        strong: The other end.
        is_whole: Whether the setting takes whole numbers only.
    """

    text: str
    before: str
    after: str
    weak: float
    strong: float
    is_whole: bool

    def at(self, value: float) -> str:
        """Return the SPEC with a value of the setting, as results name it."""
        return str(parse(f"{self.before}{value:.12g}{self.after}"))

    def between(self, one: float, other: float) -> float | None:
        """Return the value halfway on a logarithmic scale; None if there is none but the two ends."""
        middle = math.sqrt(one * other)
        found = round(middle) if self.is_whole else float(f"{middle:.{DIGITS}g}")
        return None if found in (one, other) else float(found)


Candidate = Fixed | Range


def parse_candidates(texts: Sequence[str]) -> list[Candidate]:
    """Read SPECs, each with at most one range; the baseline `none`, which is always there, is left out.

    Raises:
        UsageError: A SPEC or a range cannot be used, or an obfuscation is given twice.
    """
    found: list[Candidate] = []
    for text in texts:
        one = _range(text) if ".." in text else Fixed(text=str(parse(text)))
        if one.text in [other.text for other in found]:
            raise UsageError(f"candidates: {quoted(text)} is given twice; keep one of them")
        if one.text != BASELINE:
            found.append(one)
    if not found:
        raise UsageError(
            "candidates: expected at least one obfuscation beside none; name one, such as topk:density=0.01"
        )
    return found


def _range(text: str) -> Range:
    """Read a SPEC with a range."""
    start = f"candidate {quoted(text)}"
    places = list(RANGE.finditer(text))
    if len(places) != 1 or text.count("..") != 1:
        raise UsageError(f"{start}: expected one range KEY=WEAK..STRONG; {EXAMPLE}")
    place = places[0]
    try:
        weak, strong = (float(end) for end in place.groups()[1:])
    except ValueError:
        raise UsageError(f"{start}: expected two numbers around ..; {EXAMPLE}") from None
    if not (min(weak, strong) > 0 and max(weak, strong) < math.inf) or weak == strong:
        raise UsageError(f"{start}: expected two different numbers above 0; {EXAMPLE}")
    before, after = text[: place.start(2)], text[place.end(3) :]
    whole = _is_whole(_stage(text, place.start(), f"{place[1]}={place[2]}", place[0]), place[1])
    if whole and not (weak.is_integer() and strong.is_integer()):
        raise UsageError(f"{start}: {place[1]} takes whole numbers; write whole numbers around ..")
    found = Range(text=text, before=before, after=after, weak=weak, strong=strong, is_whole=whole)
    for end in (weak, strong):
        found.at(end)  # both ends must be settings of the obfuscation
    return found


def _stage(text: str, at: int, value: str, written: str) -> Obfuscation:
    """The stage of a pipeline that has the range, with one value instead."""
    start = max((found.end() for found in re.finditer(r"\+(?=\s*[A-Za-z_])", text) if found.end() <= at), default=0)
    rest = text[start:]
    end = re.search(r"\+(?=\s*[A-Za-z_])", rest)
    return parse(rest[: end.start() if end else None].replace(written, value))


def _is_whole(stage: Obfuscation, key: str) -> bool:
    return isinstance(getattr(stage, key, None), int)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How far a candidate's search is.

    Args:
        setting: SPEC of the next setting to try; None if the search is over.
        enough: SPEC of the weakest setting that meets the target so far; None if none does.
        fails: SPEC of the next weaker setting that was tried and does not meet it; None if there is none.
    """

    setting: str | None = None
    enough: str | None = None
    fails: str | None = None


def search(candidate: Candidate, met: Mapping[str, bool | None], steps: int) -> Search:
    """Return how far a candidate's search is, from what was tried.

    A range is tried at its strong end, at its weak end, and then by bisection on a logarithmic scale between a setting
    that fails and a stronger one. So more of the setting is taken to protect more. Where a setting cannot be judged, as
    when its training diverges, weaker ones are searched.

    Args:
        candidate: The candidate.
        met: SPEC -> whether it meets the target, for all settings that were tried; None for one that cannot be judged.
        steps: Most steps of the bisection.
    """
    if isinstance(candidate, Fixed):
        text, tried = candidate.text, candidate.text in met
        return Search(setting=None if tried else text, enough=text if met.get(text) else None)
    strong, weak = candidate.at(candidate.strong), candidate.at(candidate.weak)
    if strong not in met:
        return Search(setting=strong)
    if met[strong] is False:
        return Search(fails=strong)
    enough = strong if met[strong] else None
    if weak not in met:
        return Search(setting=weak, enough=enough)
    if met[weak] is not False:
        return Search(enough=weak if met[weak] else enough)
    below, above, fails = candidate.weak, candidate.strong, weak
    for _ in range(steps):
        middle = candidate.between(below, above)
        if middle is None:
            break
        setting = candidate.at(middle)
        if setting not in met:
            return Search(setting=setting, enough=enough, fails=fails)
        if met[setting] is False:
            below, fails = middle, setting
        else:
            above, enough = middle, setting if met[setting] else None
    return Search(enough=enough, fails=fails)


def most_settings(candidate: Candidate, steps: int) -> int:
    """Return the number of settings that are tried at most."""
    return 1 if isinstance(candidate, Fixed) else 2 + steps
