"""Noise in the local training is an obfuscation: its baseline is the same training without noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seeds import seeded, shifted
from unveil.attacks import parse as parse_attack
from unveil.attacks.dead_leaves import dead_leaves
from unveil.audits.audit import Audit
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.obfuscations import parse as parse_obfuscation
from unveil.report import summarise


def client(spec: str) -> Client:
    return Client(
        build_model("lenet", image_shape=(3, 16, 16), classes=10, seed=shifted(0)),
        dead_leaves(2, (3, 16, 16), generator=seeded(0)),
        torch.arange(2),
        training=training.parse(spec),
    )


def audit(spec: str, *obfuscations: str) -> Audit:
    return Audit(
        clients=[client(spec)],
        obfuscations=[parse_obfuscation(name) for name in obfuscations],
        attacks=[parse_attack("rog:steps=1")],
        seeds=(0, 1),
    )


@pytest.mark.parametrize(
    ("spec", "bare"),
    [
        ("fedsgd:clip=1.0,noise=1.0", "fedsgd"),
        ("fedsgd:mode=train,clip=1,noise=0.5,expected=4", "fedsgd:mode=train"),
        ("fedavg:steps=2,lr=0.1,clip=1.0,noise=1.0", "fedavg:steps=2,lr=0.1"),
        ("fedsgd:clip=1.0", ""),
        ("fedsgd", ""),
    ],
)
def test_only_noise_is_left_out_with_its_clipping(spec: str, bare: str) -> None:
    found = client(spec).without_noise()
    assert ("" if found is None else str(found.training)) == bare


@pytest.mark.slow
def test_an_audit_has_one_more_baseline_for_each_seed_where_training_adds_noise(tmp_path: Path) -> None:
    noisy = audit("fedsgd:clip=1.0,noise=1.0", "none", "fp16")
    assert len(noisy) == 6
    assert len(audit("fedsgd:clip=1.0", "none", "fp16")) == 4
    trials = run(noisy, tmp_path)
    assert [trial.without_noise for trial in read_trials(tmp_path)] == ["", "", *["fedsgd"] * 4]
    rows = summarise(trials)
    assert [row.obfuscation for row in rows] == [
        "none",
        "fedsgd:clip=1,noise=1",
        "fedsgd:clip=1,noise=1, then fp16",
    ]
    assert {row.training for row in rows} == {"fedsgd"}
    assert len({row.section for row in rows}) == 1
    assert [row.baseline is not None for row in rows] == [False, True, True]
    assert [row.family for row in rows] == ["none", "perturb", "perturb"]
    assert run(noisy, tmp_path) == trials  # finished trials are known again
