"""Do the metrics agree? How they rank pictures, and where pixels look safe although meaning or identity leaks.

After the third claim of ROG (Yue et al. 2023): scores of likeness can look safe where a picture's meaning came back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from unveil.metrics import facts_of
from unveil.report.criteria import came_back_at
from unveil.report.rows import Picture, Row
from unveil.report.significance import TESTED
from unveil.report.statistics import Interval, kendall_tau

FEWEST = 30
"""Fewest scored pictures, summed over the rows, for a statement on agreement."""

TELLING = {"reid_top1": "identity", "same_top1": "meaning", "true_class": "meaning"}
"""Metrics that are 1 or 0 for a picture -> what leaked where they are 1."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two metrics.

    Args:
        one, other: Their names.
        overall: Kendall's tau in [-1, 1] over the pictures of all rows, 1 where both rank leakage alike; its interval
            is the jackknife's over the originals.
        within: Tau over the pictures of one row, mean over the rows; None where no row has one.
    """

    one: str
    other: str
    overall: Interval
    within: float | None


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What pixel metrics miss behind one obfuscation: counts of pictures that did not come back by PSNR and SSIM.

    Args:
        obfuscation: The obfuscation.
        safe: Number of such pictures, over all clients and attacks.
        scored: Number of all scored pictures.
        found: What leaked -> number of safe pictures whose reconstruction shows it while no control does.
        chance: What leaked -> number of safe pictures where only a control shows it: the number that `found` is
            expected to have where nothing leaks.
        missed: What leaked -> number of pictures that came back by PSNR and SSIM and whose reconstruction does not
            show it.
    """

    obfuscation: str
    safe: int
    scored: int
    found: Mapping[str, int]
    chance: Mapping[str, int]
    missed: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Overlooked:
    """A picture that did not come back by pixels, but by another metric.

    Args:
        row: The row of the picture.
        picture: The picture.
        leaked: What leaked: `identity`, `meaning` or both.
    """

    row: Row
    picture: Picture
    leaked: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The content of the page on agreement.

    Args:
        names: The compared metrics.
        pairs: Every two of them.
        pictures: Number of scored pictures, summed over obfuscations and attacks.
        hidden: One entry for each obfuscation; empty where neither meaning nor identity was measured.
        overlooked: Pictures to look at: first those in which more leaked, then those of lowest PSNR.
    """

    names: tuple[str, ...]
    pairs: Sequence[Pair]
    pictures: int
    hidden: Sequence[Hidden]
    overlooked: Sequence[Overlooked]

    def pair(self, one: str, other: str) -> Pair | None:
        """The pair of two metrics, in either order; None where it could not be computed."""
        return next((pair for pair in self.pairs if {pair.one, pair.other} == {one, other}), None)


def agreement(rows: Sequence[Row], *, shown: int = 12) -> Agreement | None:
    """Compare the metrics of an audit; None where fewer than three are tested or fewer than `FEWEST` pictures scored.

    Args:
        rows: All rows of an audit.
        shown: Most overlooked pictures to list, spread evenly over the obfuscations.
    """
    names = tuple(name for name in TESTED if rows and all(name in row.scores for row in rows))
    scored = sum(len(row.scores[names[0]].by_picture) for row in rows) if names else 0
    if len(names) < 3 or scored < FEWEST:
        return None
    pairs = [pair for one, other in combinations(names, 2) if (pair := _pair(one, other, rows)) is not None]
    leaks = [leak for row in rows for leak in _overlooked(row)]
    return Agreement(
        names=names, pairs=pairs, pictures=scored, hidden=_hidden(rows, leaks), overlooked=_chosen(leaks, shown)
    )


def _oriented(name: str, row: Row) -> dict[int, float]:
    """Position in the batch -> score, with the sign that makes it rise with leakage."""
    sign = 1 if facts_of(name).leak == "high" else -1
    return {position: sign * value for position, value in row.scores[name].by_picture.items()}


def _pair(one: str, other: str, rows: Sequence[Row]) -> Pair | None:
    by_row = [(row, _oriented(one, row), _oriented(other, row)) for row in rows]
    # The scores of one original under all obfuscations and attacks are one group: they are not independent.
    originals: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row, first, second in by_row:
        for position in first.keys() & second.keys():
            originals.setdefault((row.client, position), []).append((first[position], second[position]))
    groups = [values for _, values in sorted(originals.items())]
    tau = _tau(groups)
    if tau is None or len(groups) < 2:
        return None
    # A jackknife, not a bootstrap: an original drawn twice is tied with itself, which moves tau up.
    without = [_tau(groups[:i] + groups[i + 1 :]) for i in range(len(groups))]
    known = [value for value in without if value is not None] or [tau]
    half = 1.96 * ((len(known) - 1) / len(known) * sum((value - fmean(known)) ** 2 for value in known)) ** 0.5
    within = [
        kendall_tau([first[p] for p in both], [second[p] for p in both])
        for _, first, second in by_row
        if (both := sorted(first.keys() & second.keys()))
    ]
    ranked = [value for value in within if value is not None]
    return Pair(
        one=one,
        other=other,
        overall=Interval(mean=tau, low=max(tau - half, -1.0), high=min(tau + half, 1.0)),
        within=fmean(ranked) if ranked else None,
    )


def _tau(groups: Sequence[Sequence[tuple[float, float]]]) -> float | None:
    pairs = [pair for group in groups for pair in group]
    return kendall_tau([one for one, _ in pairs], [other for _, other in pairs])


def _leaked(row: Row, position: int, *, by_control: bool = False) -> tuple[str, ...]:
    """What leaked of one picture while no control shows it; with `by_control`, what only a control shows."""
    found = []
    for name, what in TELLING.items():
        score = row.scores.get(name)
        if score is None or position not in score.by_picture:
            continue
        value, bar = score.by_picture[position], score.null_best.get(position, 0.0)
        if by_control:
            value, bar = bar, value
        # The score is a mean over the seeds: the picture counts as found if most seeds find it.
        if value > 0.5 >= bar:
            found.append(what)
    return tuple(dict.fromkeys(found))


def _overlooked(row: Row) -> list[Overlooked]:
    return [
        Overlooked(row=row, picture=picture, leaked=leaked)
        for picture in row.first
        if not came_back_at(row, picture.position) and (leaked := _leaked(row, picture.position))
    ]


def _hidden(rows: Sequence[Row], leaks: Sequence[Overlooked]) -> list[Hidden]:
    whats = list(
        dict.fromkeys(what for name, what in TELLING.items() if rows and all(name in row.scores for row in rows))
    )
    lines = []
    for name in dict.fromkeys(row.obfuscation for row in rows) if whats else ():
        there = [row for row in rows if row.obfuscation == name]
        safe = [(row, p) for row in there for p in row.scores["psnr"].by_picture if not came_back_at(row, p)]
        back = [(row, p) for row in there for p in row.scores["psnr"].by_picture if came_back_at(row, p)]
        chance = [_leaked(row, position, by_control=True) for row, position in safe]
        seen = [_leaked(row, position) for row, position in back]
        lines.append(
            Hidden(
                obfuscation=name,
                safe=len(safe),
                scored=len(safe) + len(back),
                found={w: sum(w in leak.leaked for leak in leaks if leak.row.obfuscation == name) for w in whats},
                chance={w: sum(w in found for found in chance) for w in whats},
                missed={w: sum(w not in found for found in seen) for w in whats},
            )
        )
    return lines


def _chosen(leaks: Sequence[Overlooked], shown: int) -> list[Overlooked]:
    """Take from each obfuscation in turn, and each original once before any is taken twice."""
    ranked = sorted(leaks, key=lambda leak: (-len(leak.leaked), leak.picture.psnr or 0.0))
    seen: dict[tuple[str, int], int] = {}
    turns: dict[str, int] = {}
    order = []
    for leak in ranked:
        again = seen.setdefault((leak.row.client, leak.picture.position), 0)
        seen[leak.row.client, leak.picture.position] += 1
        turn = turns.setdefault(leak.row.obfuscation, 0)
        turns[leak.row.obfuscation] += again == 0
        order.append((again, turn))
    best = sorted(range(len(ranked)), key=lambda i: order[i])[:shown]
    return [ranked[i] for i in best]
