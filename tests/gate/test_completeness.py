"""Whether a folder has every trial that its audit asked for."""

from __future__ import annotations

import pytest

from gate.made import KNOWN, beside_baseline, made, settings_of
from unveil.gate.completeness import missing_trials

ALL = beside_baseline(*(made(name, seed=seed) for name in ("fp16", "sign") for seed in (0, 1)))


def test_a_finished_audit_lacks_nothing() -> None:
    assert missing_trials(settings_of(ALL), ALL) == []


@pytest.mark.parametrize("place", range(len(ALL)))
def test_every_trial_that_is_not_there_is_named(place: int) -> None:
    lost = ALL[place]
    words = f"client hospital, {lost.settings['obfuscation']}, rog, everything known, seed {lost.seed}"
    assert missing_trials(settings_of(ALL), [*ALL[:place], *ALL[place + 1 :]]) == [words]


def test_only_what_is_judged_and_its_baseline_must_be_there() -> None:
    there = [trial for trial in ALL if trial.settings["obfuscation"] != "sign"]
    assert missing_trials(settings_of(ALL), there, ["fp16"]) == []
    assert len(missing_trials(settings_of(ALL), there, ["sign"])) == 2
    assert len(missing_trials(settings_of(ALL), there, ["fedsgd:clip=1,noise=1, then sign"])) == 2
    assert len(missing_trials(settings_of(ALL), there[1:], ["fp16"])) == 1


def test_a_threat_model_that_changes_nothing_for_a_client_may_be_skipped() -> None:
    asked = settings_of(ALL, threat_models=[KNOWN, "order unknown", "draws known"])
    assert missing_trials(asked, ALL) == []
    begun = [*ALL, made("none", threat_model="order unknown")]
    assert len(missing_trials(asked, begun)) == 5
    assert len(missing_trials(settings_of(ALL, threat_models=[KNOWN, "labels unknown"]), ALL)) == 6


def test_trials_of_another_training_do_not_stand_in() -> None:
    asked = settings_of(ALL)
    asked["clients"][0]["training"] = "fedsgd:clip=1,noise=1"
    assert len(missing_trials(asked, ALL)) == 6


def test_recordings_are_counted_too() -> None:
    trials = [made("none", client="round-1"), made("none", client="round-2")]
    asked = {"recordings": [{"name": "round-1"}, {"name": "round-2"}], "attacks": ["rog", "idlg"], "seeds": [0]}
    assert missing_trials(asked, trials) == [
        "recording round-1, idlg, seed 0",
        "recording round-2, idlg, seed 0",
    ]


@pytest.mark.parametrize("settings", [{}, {"clients": 3, "seeds": "x"}, {"clients": [1], "seeds": [0]}])
def test_settings_that_ask_for_nothing_lack_nothing(settings: dict[str, object]) -> None:
    assert missing_trials(settings, ALL) == []


@pytest.mark.parametrize("name", ["seeds", "attacks", "obfuscations", "threat_models", "clients"])
def test_lists_of_nonsense_lack_something_and_nothing_else(name: str) -> None:
    nonsense = [{"a": 1}, [2], None] if name != "clients" else [{"name": [1], "training": {}}]
    assert missing_trials(settings_of(ALL, **{name: nonsense}), ALL)


@pytest.mark.slow
def test_lists_without_end_are_not_gone_through() -> None:
    many = [str(number) for number in range(10_000)]
    clients = [{"name": name, "training": "fedsgd"} for name in many]
    asked = {
        "clients": clients,
        "obfuscations": many,
        "attacks": many,
        "seeds": many,
        "threat_models": ["order unknown"],
    }
    assert missing_trials(asked, ALL) == []
    assert len(missing_trials({**asked, "threat_models": [KNOWN]}, ALL)) == 1000
