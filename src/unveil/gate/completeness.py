"""Whether a results folder has every trial that its audit asked for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from unveil.core.foreign_settings import list_of, tables_of
from unveil.core.records import BASELINE, Trial

OFTEN_SKIPPED = ("draws known", "order unknown", "order unknown and draws known")
"""Threat models that change nothing for some clients, and are then skipped; no others are."""

MOST = 1000
"""Most missing trials that are looked for: the lists of a damaged `audit.json` may ask for any number."""


def missing_trials(settings: Mapping[str, Any], trials: Sequence[Trial], chosen: Collection[str] = ()) -> list[str]:
    """The trials that are not there, each in a few words, at most `MOST`.

    Args:
        settings: What `audit.json` says of the audit.
        trials: The finished trials.
        chosen: Obfuscations that are judged, as rows name them; none for all.
    """
    if "recordings" in settings:
        return list(itertools.islice(_missing_of_recordings(settings, trials), MOST))
    return list(itertools.islice(_missing(settings, trials, chosen), MOST))


def _missing(settings: Mapping[str, Any], trials: Sequence[Trial], chosen: Collection[str]) -> Iterator[str]:
    """The missing trials of an audit file."""
    keys = ("client", "training", "threat_model", "obfuscation", "attack")
    there = {(*(trial.settings.get(key, "") for key in keys), str(trial.seed)) for trial in trials}
    met = {(trial.settings.get("client"), trial.settings.get("threat_model")) for trial in trials}
    obfuscations = [name for name in _texts(settings, "obfuscations") if _is_judged(name, chosen)]
    for table in tables_of(settings, "clients"):
        client, training = str(table.get("name")), str(table.get("training"))
        for threat_model in _texts(settings, "threat_models"):
            if threat_model in OFTEN_SKIPPED and (client, threat_model) not in met:
                continue
            rest = itertools.product(obfuscations, _texts(settings, "attacks"), _texts(settings, "seeds"))
            for obfuscation, attack, seed in rest:
                if (client, training, threat_model, obfuscation, attack, seed) not in there:
                    yield f"client {client}, {obfuscation}, {attack}, {threat_model}, seed {seed}"


def _missing_of_recordings(settings: Mapping[str, Any], trials: Sequence[Trial]) -> Iterator[str]:
    """The missing trials of recorded updates."""
    there = {(trial.settings.get("client"), trial.settings.get("attack"), str(trial.seed)) for trial in trials}
    names = [str(table.get("name")) for table in tables_of(settings, "recordings")]
    for client, attack, seed in itertools.product(names, _texts(settings, "attacks"), _texts(settings, "seeds")):
        if (client, attack, seed) not in there:
            yield f"recording {client}, {attack}, seed {seed}"


def _texts(settings: Mapping[str, Any], name: str) -> list[str]:
    return list(dict.fromkeys(map(str, list_of(settings, name))))


def _is_judged(obfuscation: str, chosen: Collection[str]) -> bool:
    """Whether a row that is judged, or its baseline, needs the obfuscation."""
    of_rows = any(name == obfuscation or name.endswith(f", then {obfuscation}") for name in chosen)
    return not chosen or obfuscation == BASELINE or of_rows
