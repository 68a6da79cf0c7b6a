"""Differential privacy of recorded updates: from the facts of a manifest to what is stated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from audits.recorded.recordings import AVERAGED, made, of_facts, recorded, simulated
from fakes import Guess
from unveil import obfuscations
from unveil.audits.recorded.assumptions import training_of
from unveil.audits.recorded.audit import RecordedAudit
from unveil.audits.recorded.privacy import BESIDE, UNCOUNTED, stated
from unveil.audits.recorded.trial import run_recorded_trial
from unveil.captures.manifest import declared
from unveil.core.guarantees import PrivacyStatement
from unveil.privacy import mechanisms
from unveil.privacy.gaussian import epsilon_of


def statements(*, gradient: bool = False, buffers: Any = "kept", **facts: Any) -> list[PrivacyStatement]:
    spec = facts.get("obfuscation")
    named = None if spec is None else obfuscations.parse(spec)
    return stated(declared(**facts), named, is_gradient=gradient, pictures=8, buffers=buffers)


@pytest.mark.parametrize(
    ("facts", "mu"),
    [
        ({"clip": 0.5, "noise": 2.0, "steps": 9}, 3.0),  # an example is replaced: 2 C against noise 2 C, nine times
        ({"clip": 0.5, "noise": 2.0, "steps": 9, "optimiser": "adam", "adjacency": "zero-out"}, 1.5),
        ({"clip": 0.5, "noise": 2.0, "epochs": 4, "batch_size": 2}, 2.0),
        ({"clip": 0.5, "noise": 2.0, "steps": 9, "expected": 8}, 1.5),
        ({"clip": 0.5, "noise": 2.0, "steps": 9, "rounds": 4}, 6.0),
        ({"clip": 0.5, "noise": 2.0, "steps": 9, "sampling": "fixed-size", "dataset": 100}, 3.0),
        ({"obfuscation": "dpsgd:clip=3,noise=2"}, 1.0),
        ({"obfuscation": "clip:norm=3+gaussian:sigma=6", "adjacency": "zero-out", "rounds": 4}, 1.0),
        # Flower clips everything that is sent to one norm, of which the parameters are left with less.
        ({"obfuscation": "dpsgd:clip=1,noise=6", "update_clip": 3.0}, 1.0),
    ],
)
def test_facts_give_epsilon(facts: dict[str, Any], mu: float) -> None:
    (found,) = statements(delta=1e-6, **facts)
    assert found.epsilon == pytest.approx(epsilon_of(1e-6, mu), rel=1e-9)
    assert found.assumptions[-1] == (
        "The client clipped and added noise as its recording says (declared), which the update does not show."
    )


def test_a_gradient_is_one_step() -> None:
    (found,) = statements(gradient=True, clip=1.0, noise=2.0)
    assert found.epsilon == pytest.approx(epsilon_of(1e-5, 1.0), rel=1e-9)
    (summed,) = statements(gradient=True, clip=1.0, noise=2.0, loss_reduction="sum")
    assert (summed.adjacency, summed.epsilon) == ("add-remove", pytest.approx(epsilon_of(1e-5, 0.5), rel=1e-9))


def test_buffers_under_one_bound_with_the_parameters_are_one_release() -> None:
    (two,) = statements(buffers="obfuscated", obfuscation="dpsgd:clip=1,noise=2", adjacency="zero-out")
    (one,) = statements(buffers="obfuscated", obfuscation="dpsgd:clip=1,noise=2", adjacency="zero-out", update_clip=1.0)
    assert two.epsilon == pytest.approx(epsilon_of(1e-5, math.sqrt(2) / 2), rel=1e-9)
    assert one.assumptions[-1] == BESIDE
    assert one.epsilon == pytest.approx(epsilon_of(1e-5, 1 / 2), rel=1e-9)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"clip": 1.0, "noise": 1.0}, UNCOUNTED),
        ({"clip": 1.0, "steps": 2}, mechanisms.BARE),
        ({"obfuscation": "gaussian:relative=1"}, mechanisms.UNBOUNDED),
        ({"delta": 1e-6}, mechanisms.NOTHING),
        ({"obfuscation": "topk:density=0.1", "claimed_epsilon": 8}, mechanisms.NOTHING),
    ],
)
def test_facts_that_guarantee_nothing_have_their_reason(facts: dict[str, Any], reason: str) -> None:
    (found,) = statements(**facts)
    assert (found.epsilon, found.reason) == (None, reason)


def test_a_recording_that_says_nothing_of_noise_states_nothing() -> None:
    assert statements(steps=2, learning_rate=0.1, obfuscation="topk:density=0.1") == []


def test_a_claim_stands_beside_what_holds() -> None:
    (found,) = statements(obfuscation="dpsgd:clip=1,noise=0.4845", claimed_epsilon=10)
    assert found.claimed == 10
    assert found.epsilon is not None
    assert found.epsilon > 25


def test_poisson_samples_of_each_step() -> None:
    pytest.importorskip("opacus", reason="the extra unveil[dp] is not installed")
    facts = {"clip": 1.0, "noise": 1.0, "steps": 1000, "sampling": "poisson", "dataset": 1600, "expected": 16}
    (found,) = statements(**facts)
    assert found.epsilon == pytest.approx(1.838, abs=0.001)
    (unknown,) = statements(**{**facts, "steps": None, "epochs": 3})
    assert unknown.reason == UNCOUNTED


def test_the_attacker_simulates_the_clipping() -> None:
    gradient = training_of(
        of_facts(gradient=True, clip=1.0, noise=2.0, expected=8, mode="eval"), pictures=4, has_buffers=False
    )
    assert str(gradient.training) == "fedsgd:clip=1,noise=2,expected=8"
    steps = training_of(
        of_facts(**AVERAGED, clip=1.0, mode="eval", loss_reduction="sum"), pictures=4, has_buffers=False
    )
    assert str(steps.training) == "fedavg:steps=3,lr=0.05,clip=1,reduction=sum"


@pytest.mark.slow
def test_a_trial_keeps_it_and_other_terms_are_other_settings(tmp_path: Path) -> None:
    path = recorded(
        tmp_path, simulated(), obfuscations.parse("dpsgd:clip=1,noise=1"), obfuscation="dpsgd:clip=1,noise=1"
    )
    client = made(path)
    assert [s.unit for s in client.privacy] == ["client"]
    assert run_recorded_trial(client, Guess()).privacy == list(client.privacy)
    (settings,) = RecordedAudit(clients=[client], attacks=[Guess()]).settings()["recordings"]
    assert settings["privacy"][0]["epsilon"] == client.privacy[0].epsilon
