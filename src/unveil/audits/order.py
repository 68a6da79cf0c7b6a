"""The order of an audit's trials, which several processes or machines finish in another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unveil.core.foreign_settings import list_of, tables_of
from unveil.core.records import Trial


def in_order(trials: Sequence[Trial], settings: Mapping[str, Any]) -> list[Trial]:
    """The trials in the order in which the audit lists them; what it does not list comes last, as it was.

    Args:
        trials: Trials of one results folder.
        settings: What its `audit.json` says; anybody may have written it.
    """
    tables = tables_of(settings, "clients", "recordings")
    clients = _places([table.get("name") for table in tables])
    trainings = {str(table.get("name")): table.get("training") for table in tables}
    lists = {name: _places(list_of(settings, f"{name}s")) for name in ("threat_model", "obfuscation", "attack", "seed")}
    last = max(map(len, (clients, *lists.values())), default=0)

    def place(trial: Trial) -> tuple[int, ...]:
        def at(name: str, value: str) -> int:
            return lists[name].get(value, last)

        given = trial.settings
        client = given.get("client", "")
        return (
            clients.get(client, last),
            at("threat_model", given.get("threat_model", "")),
            int(given.get("training") == trainings.get(client)),  # the baseline of a training without noise comes first
            at("obfuscation", given.get("obfuscation", "")),
            at("attack", given.get("attack", "")),
            at("seed", str(trial.seed)),
        )

    return sorted(trials, key=place)


def _places(values: Sequence[Any]) -> dict[str, int]:
    """Each value as text -> its place."""
    return {str(value): place for place, value in enumerate(values)}
