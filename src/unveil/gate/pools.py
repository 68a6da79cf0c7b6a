"""A pool: the rows of one obfuscation that are judged together, one for each batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unveil.core.foreign_settings import tables_of
from unveil.core.metric import MetricFacts
from unveil.gate.batches import mean_over_batches, rate_over_batches
from unveil.report.formatting import listed
from unveil.report.levels import Level
from unveil.report.rows import Row, Score
from unveil.report.significance import ALPHA, NO_UPDATE
from unveil.report.statistics import Interval, sign_flip_test

MOST_NAMES = 3
"""Most clients that a name lists."""

PICTURES = ("name", "pictures")
"""What two batches of one client may differ in, of what `audit.json` says of a client."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rows that differ only in the pictures of their client.

    Args:
        rows: One row for each batch, at least one; all have the same obfuscation, attack, enhancer, threat model,
            training and model.
        together: Whether an attack that works on one batch counts as one that works on all: batches of a few pictures
            are too small to tell for each. Else batches on which it fails are left out.
    """

    rows: tuple[Row, ...]
    together: bool = False

    @property
    def obfuscation(self) -> str:
        """The obfuscation, as in `Row`."""
        return self.rows[0].obfuscation

    @property
    def clients(self) -> str:
        """The names of the clients, or of the first ones."""
        names = [row.client for row in self.rows]
        if len(names) > MOST_NAMES:
            names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} others"]
        return listed(names)

    @property
    def attacker(self) -> str:
        """The attack with its enhancer, and the threat model."""
        one = self.rows[0]
        return ", ".join(filter(None, (" then ".join(filter(None, (one.attack, one.enhancer))), one.threat_model)))

    @property
    def name(self) -> str:
        """All that tells this pool from others, in one line."""
        return ", ".join(filter(None, (self.obfuscation, self.clients, self.rows[0].training, self.attacker)))

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells this pool from others of the same obfuscation."""
        one = self.rows[0]
        return (*(row.client for row in self.rows), one.training, one.attack, one.enhancer, one.threat_model)

    @property
    def tested(self) -> tuple[tuple[str, ...], str, str]:
        """What one attack that works is enough for: the clients, their training and the obfuscation."""
        return tuple(row.client for row in self.rows), self.rows[0].training, self.obfuscation

    def conclusive(self, facts: MetricFacts) -> tuple[Row, ...]:
        """The rows whose attack finds something in the bare update, or behind the obfuscation; see `together`.

        Args:
            facts: The metric that is judged. Where batches count together, an attack also works if the metric itself
                says so over the bare updates of all of them; see `finds_by`.
        """
        found = tuple(row for row in self.rows if row.verdict.level is not Level.INCONCLUSIVE)
        if not self.together:
            return found
        bare = [row.baseline or row for row in self.rows]
        return self.rows if found or finds_by(facts, bare) else ()

    @property
    def pictures(self) -> int:
        """Number of pictures of all batches."""
        return sum(row.pictures for row in self.rows)


def pools(rows: Sequence[Row], settings: Mapping[str, Any], chosen: Collection[str] = ()) -> list[Pool]:
    """Pools of the rows that are judged, in order of first appearance.

    Args:
        rows: Rows with their verdicts.
        settings: What `audit.json` says of the audit.
        chosen: Obfuscations that are judged, as rows name them, the baseline's too; none for all but the baseline. The
            row of a recorded update is no baseline: what was sent is what is asked about.
    """
    kinds = _kinds(settings)
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.obfuscation in chosen if chosen else not row.is_baseline or row.plausibility is not None:
            kind = kinds.get(row.client, row.client)
            key = (kind, row.training, row.obfuscation, row.attack, row.enhancer, row.threat_model)
            found.setdefault(key, []).append(row)
    return [Pool(rows=tuple(members)) for members in found.values()]


def _kinds(settings: Mapping[str, Any]) -> dict[str, str]:
    """Client -> the first client that differs from it only in name and pictures."""
    first: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for client in tables_of(settings, "clients"):
        if isinstance(client.get("name"), str):
            rest = repr(sorted((key, value) for key, value in client.items() if key not in PICTURES))
            kinds[client["name"]] = first.setdefault(rest, client["name"])
    return kinds


def scores_of(rows: Sequence[Row], metric: str) -> list[Score]:
    """The metric's score of each row that has it."""
    return [row.scores[metric] for row in rows if metric in row.scores]


def finds_by(facts: MetricFacts, rows: Sequence[Row]) -> bool:
    """Whether a metric of all pictures together is better than what is best without the update, by more than chance.

    A test by sign flips over the pictures, one-sided, at a p-value of `ALPHA`. Beside the blind guess alone only a
    share counts: against a grey picture, anything that looks like a photograph scores well in other metrics.

    Args:
        facts: The metric.
        rows: One row for each batch.
    """
    scores = scores_of(rows, facts.name)
    controls = {contrast.control for score in scores for contrast in score.contrasts} - {NO_UPDATE}
    sign = 1 if facts.leak == "high" else -1
    differences = [
        sign * (value - score.null_best[at])
        for score in scores
        for at, value in score.by_picture.items()
        if at in score.null_best
    ]
    return bool(differences) and (facts.is_rate or bool(controls)) and sign_flip_test(differences) <= ALPHA


def mean_of(rows: Sequence[Row], facts: MetricFacts) -> Interval | None:
    """Mean over the pictures of the rows with its 95 % interval, that of the report for a single row.

    None where no row has the metric.
    """
    scores = scores_of(rows, facts.name)
    if len(scores) == 1:
        return scores[0].mean
    batches = [list(score.by_picture.values()) for score in scores]
    if not batches:
        return None
    return rate_over_batches(batches) if facts.is_rate else mean_over_batches(batches)


def worst_of(rows: Sequence[Row], facts: MetricFacts) -> float | None:
    """The score of the picture that leaks most, under the seed under which it leaks most; None without scores."""
    values = [value for score in scores_of(rows, facts.name) for run in score.runs for value in run.values()]
    return (max if facts.leak == "high" else min)(values, default=None)


def unscored(rows: Sequence[Row], metric: str) -> int:
    """Number of scores that are missing or no number, over all pictures and runs of the rows."""
    expected = sum(row.pictures * len(row.stops) for row in rows)
    return expected - sum(len(run) for score in scores_of(rows, metric) for run in score.runs)
