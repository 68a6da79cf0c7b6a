"""An attacker who was not granted the obfuscation takes it from the update."""

from pathlib import Path

import pytest
import torch

from audits.recorded.recordings import made, recorded, simulated
from fakes import small_client
from unveil import attacks
from unveil.audits.pipeline import play
from unveil.audits.recorded.trial import recorded_settings
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.core.update import Update
from unveil.inspection import unknown_obfuscation
from unveil.inspection.fingerprint.findings import Finding, Fingerprint
from unveil.inspection.unknown_obfuscation import fingerprinted, is_believed
from unveil.obfuscations import parse

UNKNOWN = ThreatModel.parse("obfuscation unknown")
SPARSE = "topk:density=0.25"


def client() -> Client:
    model, batch = small_client(size=16)
    return Client(model, batch.images, batch.labels)


def test_a_withheld_obfuscation_is_taken_from_the_tensors_alone() -> None:
    sender = client()
    sent = sender.update(parse(SPARSE), seed=0)
    bare = Update(dict(sent.tensors))  # neither mask nor coding
    update, knowledge = fingerprinted(bare, sender.knowledge(None))
    assert (str(knowledge.obfuscation), knowledge.fingerprinted) == (SPARSE, True)
    assert update.coding.sparse
    assert (
        "The attacker was not granted the obfuscation; the fingerprint of the update is topk:density=0.25."
        in knowledge.assumptions
    )


def test_a_known_obfuscation_is_left_as_it_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_obfuscation, "fingerprint", lambda *_, **__: pytest.fail("looked at without need"))
    sender = client()
    granted = sender.knowledge(parse("fp16"))
    update = sender.update(parse(SPARSE), seed=0)
    assert fingerprinted(update, granted) == (update, granted)


def test_an_update_that_shows_nothing_is_taken_as_exact() -> None:
    sender = client()
    update, granted = sender.update(seed=0), sender.knowledge(None)
    assert fingerprinted(update, granted) == (update, granted)


@pytest.mark.parametrize(
    ("confidences", "believed"), [((), False), ((0.9,), True), ((0.49,), False), ((0.7, 0.7), False)]
)
def test_a_fingerprint_is_believed_from_one_half(confidences: tuple[float, ...], believed: bool) -> None:
    found = Fingerprint(findings=tuple(Finding(spec="fp16", confidence=c, evidence="") for c in confidences))
    assert is_believed(found) is believed


@pytest.mark.slow
def test_a_trial_without_the_obfuscation_equals_one_with_it_where_the_fingerprint_is_right() -> None:
    attack = attacks.parse("inverting_gradients:steps=3")
    known, unknown = (
        play(client(), parse(SPARSE), attack, threat_model=model, seed=0) for model in (ThreatModel(), UNKNOWN)
    )
    assert (known.knowledge.fingerprinted, unknown.knowledge.fingerprinted) == (False, True)
    assert str(unknown.knowledge.obfuscation) == SPARSE
    assert torch.equal(known.attack.images, unknown.attack.images)


def test_a_recording_that_does_not_say_its_obfuscation_shows_it(tmp_path: Path) -> None:
    sender = simulated()
    path = recorded(tmp_path, sender, parse(SPARSE), labels=sender.labels.tolist())
    found = made(path)
    assert found.obfuscation == "unknown, taken for topk:density=0.25"
    assert str(found.threat_model) == "obfuscation unknown"
    assert recorded_settings(found, attacks.parse("unveil"))["obfuscation"] == found.obfuscation
    assert made(path, fingerprint=False).obfuscation == "unknown"
