"""Trials on a real card against the processor: `pytest -m cuda` where there is one.

The same bodies run on the processor everywhere, where what they compare is equal, so that they are known to work.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.test_app import AUDIT, Call, call
from pretended_card import NAME, PEAK_MIB, pretended_card
from unveil.attacks import parse as attack_of
from unveil.audits.pipeline import Outcome, play
from unveil.audits.results import read_trials
from unveil.audits.trial import run_trial
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.arithmetic import Choice, using
from unveil.metrics.pixel import psnr
from unveil.obfuscations import parse as obfuscation_of

__all__ = ["call"]

QSGD = "qsgd:levels=16,norm=max"
ROUNDING, FLIPPED, DECIBELS = 1e-4, 1e-3, 1.0
"""Difference of an entry of the update in units of its tensor's largest; share of entries that may differ by more, as
they are rounded or chosen otherwise; difference of a batch's mean PSNR. docs/performance.md states them."""


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda:0",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def small() -> Client:
    return make_client(name="small", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("obfuscation", "attack"),
    [
        ("none", "unveil:steps=10"),
        (QSGD, "unveil:steps=10"),
        ("topk:density=0.2", "rog:steps=10"),
        ("none", "inverting_gradients:steps=10"),
    ],
)
def test_a_trial_is_that_of_the_processor(device: torch.device, obfuscation: str, attack: str) -> None:
    def played(where: torch.device) -> Outcome:
        return play(small().to(where), obfuscation_of(obfuscation), attack_of(attack), seed=0)

    with using("float32"):
        expected, found = played(torch.device("cpu")), played(device)
    assert found.attack.images.device == device
    assert found.attack.labels.tolist() == expected.attack.labels.tolist()
    sent = {name: (found.received.tensors[name].cpu(), tensor) for name, tensor in expected.received.tensors.items()}
    off = [((one - other).abs() > ROUNDING * other.abs().max()).flatten() for one, other in sent.values()]
    assert float(torch.cat(off).double().mean()) <= FLIPPED
    before, after = (psnr(small().images, o.attack.images.cpu()).mean() for o in (expected, found))
    assert float(after) == pytest.approx(float(before), abs=DECIBELS)


@pytest.mark.parametrize("chosen", ["float32", "bfloat16", "tf32"])
def test_the_arithmetic_is_recorded(device: torch.device, chosen: Choice) -> None:
    is_card = device.type == "cuda"
    with using(chosen):
        trial = run_trial(small().to(device), obfuscation_of("none"), attack_of("rog:steps=1"))
    assert trial.settings["arithmetic"] == ("tf32" if is_card and chosen == "tf32" else "float32")
    assert trial.versions["device"] == str(device)
    assert trial.versions.get("tf32") == (("yes" if chosen == "tf32" else "no") if is_card else None)
    assert bool(trial.versions.get("card")) == is_card
    assert trial.peak_mib is not None


@pytest.mark.slow
def test_trials_side_by_side_are_those_of_one_after_the_other(device: torch.device, call: Call) -> None:
    Path("audit.toml").write_text(f"seeds = [0, 1]\n{AUDIT}", encoding="utf-8")
    for folder, options in (("one", ()), ("two", ("--workers", "2"))):
        answer = call("audit", "audit.toml", "--device", str(device), "--out", folder, *options)
        assert answer.code == 0, answer.err
    one, two = (
        {(trial.settings["obfuscation"], trial.seed): trial for trial in read_trials(Path(folder))}
        for folder in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert {seed for _, seed in one} == {0, 1}
    for key, trial in one.items():
        assert two[key].versions["device"] == str(device)
        assert two[key].scores["psnr"] == pytest.approx(trial.scores["psnr"], abs=DECIBELS)


@pytest.mark.slow
def test_the_command_runs_on_a_card_and_says_so(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_card(monkeypatch):
        answer = call("audit", "audit.toml", "--device", "cuda:0")
    assert answer.code == 0, answer.err
    trials = read_trials(Path("audits/audit"))
    assert len(trials) == 2
    for trial in trials:
        assert (trial.versions["device"], trial.versions["card"], trial.peak_mib) == ("cuda:0", NAME, PEAK_MIB)
