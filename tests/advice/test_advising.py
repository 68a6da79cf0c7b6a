"""The work on a question: the order of the settings, the budget, and what is kept."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advice.made import advice, assessment, federation
from gate.made import LEAK, NOTHING
from unveil.advice import advising, folder
from unveil.advice.advising import Advice, Listener, advise
from unveil.advice.estimate import Estimate, estimate
from unveil.advice.federation import Federation
from unveil.advice.leakage import Leakage
from unveil.advice.training import train
from unveil.core.errors import UsageError
from unveil.core.records import BASELINE
from unveil.gate.judging import Ruling
from unveil.obfuscations import parse

RANGE = "gaussian:relative=0.1..10"


def leakage(obfuscation: str) -> Leakage:
    """Noise of 1 and more, and a hundredth of the entries, are enough; nothing else is."""
    enough = obfuscation in ("topk:density=0.01", "gaussian:relative=10", "gaussian:relative=1")
    found = assessment(obfuscation, NOTHING["psnr"] if enough else LEAK["psnr"]).leakage
    assert found is not None
    return found


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The obfuscations whose updates were attacked, in order."""
    seen: list[str] = []

    def audited(federation: Federation, runs: Sequence[Any], obfuscation: Any, *rest: Any, **options: Any) -> Leakage:
        seen.append(str(obfuscation))
        return leakage(str(obfuscation))

    monkeypatch.setattr(advising, "audited", audited)
    return seen


def found(tmp_path: Path, *candidates: str, **options: Any) -> Advice:
    return advise(advice(candidates=candidates).question, tmp_path / "out", **options)


@pytest.mark.slow
def test_candidates_take_turns_after_the_baseline(tmp_path: Path, attacked: list[str]) -> None:
    seen: list[str] = []
    listener = Listener(on_assessment=lambda one: seen.append(one.obfuscation))
    result = found(tmp_path, RANGE, "topk:density=0.01", "fp16", listener=listener)
    assert attacked == [
        BASELINE,
        "gaussian:relative=10",
        "topk:density=0.01",
        "fp16",
        "gaussian:relative=0.1",
        "gaussian:relative=1",
        "gaussian:relative=0.316",
    ]
    assert seen == attacked
    assert [one.met for one in result.assessments] == [True, True, False, False, True, False]
    assert result.left_out == ()


def test_a_budget_ends_before_a_setting_that_would_end_later(tmp_path: Path, attacked: list[str]) -> None:
    ticks = itertools.count(0, 10)  # every look at the clock is ten seconds after the last one
    result = found(tmp_path, "topk:density=0.01", "fp16", "sign", budget=45, expected=10, clock=lambda: next(ticks))
    # looks: start 0; before topk 10 + 10; topk from 20 to 30; before fp16 40 + 10 is more than 45
    assert attacked == [BASELINE, "topk:density=0.01"]
    assert [one.text for one in result.left_out] == ["fp16", "sign"]


def test_the_first_estimate_counts_until_a_setting_was_timed(tmp_path: Path, attacked: list[str]) -> None:
    result = found(tmp_path, "fp16", RANGE, budget=5, expected=10, clock=lambda: 0.0)
    assert attacked == [BASELINE]
    assert [one.text for one in result.left_out] == ["fp16", RANGE]


def test_what_is_kept_is_not_trained_again_and_costs_no_budget(
    tmp_path: Path, attacked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = found(tmp_path, "fp16")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(advising, "train", refuse)
    again = found(tmp_path, "fp16", budget=5, expected=10, clock=lambda: 0.0)
    assert [one.accuracy for one in again.assessments] == [one.accuracy for one in first.assessments]
    assert again.assessments[0].runs[0].wire_bits == first.assessments[0].runs[0].wire_bits
    with pytest.raises(AssertionError, match="trained again"):
        found(tmp_path, "sign")


def test_a_training_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    asked = federation("fedavg:steps=2,lr=0.1")
    run = train(asked, parse("fp16"), seed=0)
    key = folder.key_of(asked, "fp16", 0)
    assert folder.kept(tmp_path, key) is None
    folder.keep(tmp_path, key, run)
    read = folder.kept(tmp_path, key)
    assert read is not None
    assert (read.accuracy, read.right, read.wire_bits, read.diverged) == (run.accuracy, run.right, run.wire_bits, None)
    assert list(read.weights) == list(run.weights)
    for phase, weights in run.weights.items():
        assert all(torch.equal(read.weights[phase][name], tensor) for name, tensor in weights.items())
    assert (tmp_path / "federations" / f"{key}.safetensors").stat().st_mode & 0o777 == 0o600


def test_other_settings_have_another_file() -> None:
    one = federation()
    keys = {
        folder.key_of(one, "fp16", 0),
        folder.key_of(one, "sign", 0),
        folder.key_of(federation(seeds=(1,)), "fp16", 1),
        folder.key_of(federation(rounds=4), "fp16", 0),
        folder.key_of(federation("fedavg:steps=1,lr=1"), "fp16", 0),
    }
    assert len(keys) == 5
    assert folder.key_of(federation(), "fp16", 0) in keys


def test_a_damaged_file_is_trained_again_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = federation()
    folder.keep(tmp_path, "key", train(asked, parse("fp16"), seed=0))
    path = tmp_path / "federations" / "key.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert folder.kept(tmp_path, "key") is None
    assert "is damaged; this federation is trained again" in caplog.text


def test_a_setting_whose_training_diverges_is_not_attacked(
    tmp_path: Path, attacked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = train(federation("fedavg:steps=1,lr=1e30", server_lr=1e30), parse(BASELINE), seed=0)
    monkeypatch.setattr(
        advising, "train", lambda asked, o, **_: broken if str(o) == "sign" else train(asked, o, seed=0)
    )
    (one,) = found(tmp_path, "sign").assessments
    assert attacked == [BASELINE]
    assert (one.ruling, one.diverged, one.accuracy) == (Ruling.UNJUDGED, 1, 0.25)


def test_a_federation_that_diverges_by_itself_is_refused(tmp_path: Path) -> None:
    question = replace(
        advice(candidates=["fp16"]).question, federation=federation("fedavg:steps=1,lr=1e30", server_lr=1e30)
    )
    with pytest.raises(
        UsageError, match="without any obfuscation the training diverges in round 1; lower lr or server_lr"
    ):
        advise(question, tmp_path / "out")


def test_where_the_baseline_cannot_be_judged_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = assessment(BASELINE, NOTHING["psnr"], bare=NOTHING["psnr"]).leakage
    monkeypatch.setattr(advising, "audited", lambda *_, **__: bare)
    result = found(tmp_path, "fp16")
    assert (result.assessments, result.baseline.ruling) == ((), Ruling.UNJUDGED)


@pytest.mark.parametrize(("budget", "settings"), [(5, 0), (10, 0), (31, 2), (1000, 4)])
def test_an_estimate_says_how_many_settings_fit(budget: float, settings: int) -> None:
    one = Estimate(baseline=10, setting=10, settings=4)
    assert (one.total, one.fitting(budget)) == (50, settings)


def test_an_estimate_counts_rounds_seeds_phases_controls_and_the_bare_updates() -> None:
    asked = advice(candidates=["fp16", RANGE]).question  # two attacked clients, one control, two steps in the range
    ticks = itertools.count(0, 5)  # a round takes five seconds
    found = estimate(asked, of_run=lambda client, attack: 8.0, clock=lambda: next(ticks))
    training, phase = 5 * 3, 8 * 2 * 2  # three rounds; an attack on the update and on the control of two clients
    expected = Estimate(baseline=training + 3 * phase, setting=training + 5 * phase, settings=1 + 4)
    assert replace(found, mib=None) == expected


def test_an_estimate_shares_attacks_among_workers_and_adds_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unveil.audits.profiling._reset_peak", lambda device: True)
    monkeypatch.setattr("unveil.audits.profiling._peak_mib", lambda device: 100.0)
    asked = advice(candidates=["fp16"]).question
    alone, shared = (
        estimate(asked, workers=workers, of_run=lambda client, attack: 8.0, clock=lambda: 0.0) for workers in (None, 2)
    )
    assert (alone.baseline, shared.baseline) == (3 * 32, 3 * 16)
    weights = 2 * 3 * (16 * 4 + 4) * 4 / 2**20  # three phases, kept and in a model each, of float32
    assert alone.mib == pytest.approx(100 + weights)
    assert shared.mib == pytest.approx(3 * (100 + weights))
    monkeypatch.setattr("unveil.audits.profiling._reset_peak", lambda device: False)
    assert estimate(asked, of_run=lambda client, attack: 8.0, clock=lambda: 0.0).mib is None
