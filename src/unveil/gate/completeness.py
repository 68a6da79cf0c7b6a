"""Whether a results folder has every trial that its audit asked for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from unveil.core.records import BASELINE, Trial

OFTEN_SKIPPED = ("draws known", "order unknown", "order unknown and draws known")
"""Threat models that change nothing for some clients, and are then skipped; no others are."""


def missing_trials(settings: Mapping[str, Any], trials: Sequence[Trial], chosen: Collection[str] = ()) -> list[str]:
    """The trials that are not there, each in a few words.

    Args:
        settings: What `audit.json` says of the audit.
        trials: The finished trials.
        chosen: Obfuscations that are judged, as rows name them; none for all.
    """
    keys = ("client", "training", "threat_model", "obfuscation", "attack")
    there = {(*(trial.settings.get(key, "") for key in keys), trial.seed) for trial in trials}
    of_recordings = {(trial.settings.get("client"), trial.settings.get("attack"), trial.seed) for trial in trials}
    met = {(trial.settings.get("client"), trial.settings.get("threat_model")) for trial in trials}
    found = []
    for client, training, threat_model, obfuscation, attack, seed in _asked(settings):
        skipped = threat_model in OFTEN_SKIPPED and (client, threat_model) not in met
        absent = (client, training, threat_model, obfuscation, attack, seed) not in there
        if absent and not skipped and _is_judged(obfuscation, chosen):
            found.append(f"client {client}, {obfuscation}, {attack}, {threat_model}, seed {seed}")
    for client, attack, seed in _asked_of_recordings(settings):
        if (client, attack, seed) not in of_recordings:
            found.append(f"recording {client}, {attack}, seed {seed}")
    return found


def _asked(settings: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Client, training, threat model, obfuscation, attack and seed of every trial of an audit file."""
    clients = [(table.get("name"), table.get("training")) for table in _tables(settings, "clients")]
    rest = (_list(settings, name) for name in ("threat_models", "obfuscations", "attacks", "seeds"))
    for (client, training), *others in itertools.product(clients, *rest):
        yield client, training, *others


def _asked_of_recordings(settings: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Client, attack and seed of every trial of recorded updates."""
    names = [table.get("name") for table in _tables(settings, "recordings")]
    yield from itertools.product(names, _list(settings, "attacks"), _list(settings, "seeds"))


def _tables(settings: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [table for table in _list(settings, name) if isinstance(table, dict)]


def _list(settings: Mapping[str, Any], name: str) -> list[Any]:
    """A list of the settings; empty for anything else, which a damaged file may hold."""
    value = settings.get(name)
    return [item if isinstance(item, dict | int) else str(item) for item in value] if isinstance(value, list) else []


def _is_judged(obfuscation: str, chosen: Collection[str]) -> bool:
    """Whether a row that is judged, or its baseline, needs the obfuscation."""
    return (
        not chosen
        or obfuscation == BASELINE
        or any(name == obfuscation or name.endswith(f", then {obfuscation}") for name in chosen)
    )
