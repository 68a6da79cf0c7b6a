"""Attacked clients of a federation, also where a training broke on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from advice.made import CLASSES, advice, federation, pictures
from fakes import Guess
from seeds import seeded
from unveil.advice import advising
from unveil.advice.advising import Question, advise
from unveil.advice.attacking import audited
from unveil.advice.federation import FederatedRun, Federation
from unveil.advice.leakage import Leakage
from unveil.advice.target import parse_target
from unveil.advice.training import train
from unveil.advice.updates import audit_of
from unveil.audits.results import read_trials
from unveil.core.protocols import Obfuscation
from unveil.gate.judging import Ruling
from unveil.metrics import FACTS
from unveil.obfuscations import parse


def network() -> nn.Module:
    """A hidden layer whose ReLU can be shut for all pictures: then every gradient is zero."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, CLASSES, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(0)) / 4)
    return model.eval()


def broken(run: FederatedRun, phase: str, bias: float) -> FederatedRun:
    """The same training, whose hidden layer had this bias in a phase."""
    weights: dict[str, Mapping[str, Float[Tensor, " ..."]]] = {name: dict(held) for name, held in run.weights.items()}
    weights[phase] = {**weights[phase], "1.bias": torch.full((8,), bias)}
    return replace(run, weights=weights)  # type: ignore[arg-type]


@pytest.fixture
def asked() -> Question:
    question = advice(candidates=["sign", "fp16"]).question
    data = replace(question.federation.data, train=pictures(8, seed=1, size=12), test=pictures(12, seed=2, size=12))
    changed = replace(federation(server_lr=0.1), starts={0: network()}, data=data)
    auditing = replace(question.auditing, attacks=[Guess()])
    target = parse_target("psnr.worst <= 40", list(FACTS), ["psnr"])
    return replace(question, federation=changed, auditing=auditing, target=target)


def found(asked: Question, run: FederatedRun, folder: Path) -> Leakage:
    return audited(asked.federation, [run], parse("sign"), asked.auditing, asked.target, folder)


@pytest.mark.parametrize(
    ("bias", "why"),
    [(-1e6, "the update is all zeros."), (float("nan"), "the update tensor '1.weight' holds NaN or infinite values.")],
)
def test_a_phase_without_a_usable_update_is_not_attacked(
    asked: Question, tmp_path: Path, bias: float, why: str
) -> None:
    run = broken(train(asked.federation, parse("sign"), seed=0), "middle", bias)
    leakage = found(asked, run, tmp_path)
    assert leakage.left_out == {
        "middle": f"At the middle of the training 2 of 2 attacked clients have nothing to attack: {why}"
    }
    assert leakage.unattacked == ["middle"]
    assert leakage.reason == leakage.left_out["middle"]
    assert {phase: len(judgements) for phase, judgements in leakage.judgements.items()} == {
        "start": 1,
        "middle": 0,
        "end": 1,
    }
    assert {trial.settings["client"] for trial in read_trials(tmp_path)} == {
        f"client {number}, {phase}" for number in (1, 2) for phase in ("start", "end after sign")
    }


def test_the_search_goes_on_after_a_setting_that_breaks_the_training(
    asked: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(asked: Federation, obfuscation: Obfuscation, **options: Any) -> FederatedRun:
        run = train(asked, obfuscation, seed=0)
        return broken(run, "end", -1e6) if str(obfuscation) == "sign" else run

    monkeypatch.setattr(advising, "train", trained)
    target = parse_target("psnr.worst <= 5", list(FACTS), ["psnr"])  # random pictures are beyond that
    advice = advise(replace(asked, target=target), tmp_path / "out")
    assert [one.obfuscation for one in advice.assessments] == ["sign", "fp16"]
    sign, fp16 = (one.leakage for one in advice.assessments)
    assert sign is not None
    assert fp16 is not None
    assert (sign.unattacked, fp16.unattacked) == (["end"], [])
    assert advice.assessments[0].ruling is Ruling.EXCEEDED  # what came back at the start counts


def test_the_same_clients_are_left_out_of_an_audit_made_anew(asked: Question) -> None:
    run = train(asked.federation, parse("sign"), seed=0)
    without = frozenset({("start", 0), ("middle", 0), ("end", 0), ("end", 1)})
    audit = audit_of(asked.federation, [run], parse("sign"), asked.auditing, without=without)  # type: ignore[arg-type]
    clients = [client["name"] for client in audit.settings()["clients"]]
    assert clients == ["client 2, start", "client 2, middle after sign"]
    assert audit.settings()["seeds"] == [1]


def test_only_the_metrics_of_one_client_are_kept(asked: Question) -> None:
    run = train(asked.federation, parse("sign"), seed=0)
    built: dict[str, Any] = {}
    for audit in audit_of(asked.federation, [run], parse("sign"), asked.auditing).audits:
        for task in audit.tasks(built):
            task.run(None)
            assert list(built) == [task.settings["client"]]
