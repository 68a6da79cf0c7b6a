"""Comparing an audit with an earlier one: which rows are compared, and what else is different."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unveil.core.circumstances import used
from unveil.core.files import shown
from unveil.core.foreign_settings import tables_of
from unveil.core.records import Trial
from unveil.gate.judging import Judgement
from unveil.gate.pools import Pool, pools
from unveil.gate.rises import judge_rise
from unveil.metrics import FACTS, NEEDS
from unveil.report import summarise
from unveil.report.formatting import listed
from unveil.report.rows import Row
from unveil.report.significance import TESTED

MOST = 4
"""Most rows, and most differences, that a sentence names."""

COMPARED = ("attacks", "seeds", "threat_models", "metrics", "controls", "arithmetic", "enhancer")
"""Settings of an audit whose differences are said, beside those of its clients."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An earlier audit.

    Args:
        name: Its folder, as the user named it.
        trials: Its finished trials.
        settings: What its `audit.json` says.
    """

    name: str
    trials: Sequence[Trial]
    settings: Mapping[str, Any]


def compare(
    found: Sequence[Pool],
    settings: Mapping[str, Any],
    trials: Sequence[Trial],
    earlier: Earlier,
    *,
    metrics: Collection[str],
    chosen: Collection[str],
) -> tuple[list[Judgement], list[str]]:
    """Judge every pool against the same rows of an earlier audit.

    Args:
        found: The pools of the audit.
        settings: What its `audit.json` says.
        trials: Its finished trials.
        earlier: The earlier audit.
        metrics: What is compared; empty for each tested metric that both have.
        chosen: Obfuscations that are judged; none for all but the baseline.

    Returns:
        The judgements, none where no row is in both, and what else a reader must know, a sentence each.
    """
    old = {_key(row): row for pool in pools(summarise(earlier.trials), earlier.settings, chosen) for row in pool.rows}
    names = list(metrics) or [
        name
        for name in TESTED
        if any(name in row.scores for pool in found for row in pool.rows)
        and any(name in row.scores for row in old.values())
    ]
    judgements = []
    for pool in found:
        rows = tuple(row for row in pool.rows if _key(row) in old)
        if rows:
            before = [old[_key(row)] for row in rows]
            same = all(
                _same_pictures(settings, earlier.settings, row.client) and row.pictures == then.pictures
                for row, then in zip(rows, before, strict=True)
            )
            judgements += [
                judge_rise(
                    name,
                    Pool(rows=rows),
                    before,
                    same_pictures=same,
                    since=earlier.name,
                    obstacle=_obstacle(name, settings, earlier),
                )
                for name in names
            ]
    new = {_key(row): row for pool in found for row in pool.rows}
    remarks = [
        *_rows_said("New, and not compared", [row for key, row in new.items() if key not in old]),
        *_rows_said(f"In {earlier.name} and not here", [row for key, row in old.items() if key not in new]),
    ]
    differences = [*_differences(settings, earlier.settings), *_versions(trials, earlier.trials)]
    if differences:
        remarks.append(f"Since {earlier.name}: {_first(differences)}.")
    return judgements, remarks


def _key(row: Row) -> tuple[str, ...]:
    """What makes two rows the same."""
    return (row.client, row.training, row.obfuscation, row.attack, row.enhancer, row.threat_model)


def _tables(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Client, or recording, -> what `audit.json` says of it."""
    return {str(table.get("name")): table for table in tables_of(settings, "clients", "recordings")}


def _same_pictures(settings: Mapping[str, Any], before: Mapping[str, Any], client: str) -> bool:
    """Whether a client has the same pictures in both audits, by their digests; no digest is no proof."""
    now, then = _tables(settings).get(client, {}), _tables(before).get(client, {})
    digests = [table.get("pictures", table.get("originals")) for table in (now, then)]
    return digests[0] is not None and digests[0] == digests[1]


def _obstacle(metric: str, settings: Mapping[str, Any], earlier: Earlier) -> str:
    """Why a metric means something else than before; empty where it means the same."""
    own = metric in FACTS and metric not in NEEDS
    now, before = settings.get("metrics"), earlier.settings.get("metrics")
    decoys = settings.get("decoys"), earlier.settings.get("decoys")
    if own or (now == before and decoys[0] == decoys[1]):
        return ""
    return (
        f"{metric} is not comparable with {earlier.name}: the settings under metrics differ; audit with the same, or "
        "compare metrics of pixels."
    )


def _rows_said(what: str, rows: Sequence[Row]) -> list[str]:
    """A sentence that names rows; none where there are none."""
    return [f"{what}: {_first([Pool(rows=(row,)).name for row in rows])}."] if rows else []


def _differences(settings: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """What is different, of the clients that both have and of the audits as a whole."""
    then = _tables(before)
    for name, table in _tables(settings).items():
        earlier = then.get(name, table)
        for key in dict.fromkeys([*table, *earlier]):
            if table.get(key) != earlier.get(key):
                yield f"{key} of {name} was {_text(earlier.get(key))}, is {_text(table.get(key))}"
    for key in COMPARED:
        if settings.get(key) != before.get(key):
            yield f"{key} was {_text(before.get(key))}, is {_text(settings.get(key))}"


def _versions(trials: Sequence[Trial], before: Sequence[Trial]) -> Iterator[str]:
    """The versions, and what else the trials say of the machine, that are different."""
    now, then = (used(trial.versions for trial in some) for some in (trials, before))
    for key in dict.fromkeys([*now, *then]):
        if now.get(key) != then.get(key):
            yield f"{key} was {listed(then.get(key, ['absent']))}, is {listed(now.get(key, ['absent']))}"


def _text(value: Any) -> str:
    return "absent" if value is None else shown(str(value), longest=60)


def _first(texts: Sequence[str]) -> str:
    """The texts, or the first of them and how many more there are."""
    more = f"; and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return "; ".join(texts[:MOST]) + more
