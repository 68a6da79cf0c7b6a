"""A small federation of random pictures, and what a training of it would leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gate.made import LEAK, NOTHING, made
from seeds import seeded
from unveil.advice.advising import Advice, Question
from unveil.advice.assessment import Assessment, cost_of
from unveil.advice.candidates import parse_candidates
from unveil.advice.data import FederationData
from unveil.advice.federation import FederatedRun, Federation
from unveil.advice.leakage import judged
from unveil.advice.target import parse_target
from unveil.advice.updates import Auditing
from unveil.attacks import parse as parse_attack
from unveil.audits.scoring import MetricSelection
from unveil.clients.training import parse as parse_training
from unveil.core.batch import Batch
from unveil.core.records import BASELINE
from unveil.metrics import FACTS
from unveil.obfuscations import parse

CLASSES = 4


def pictures(count: int, *, seed: int, size: int = 4) -> Batch:
    """Random grey pictures with labels in turn."""
    return Batch(torch.rand((count, 1, size, size), generator=seeded(seed)), torch.arange(count) % CLASSES)


def linear(seed: int) -> nn.Module:
    """One Linear layer with weights of its own for each seed."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)) / 4)
    return model.eval()


def federation(training: str = "fedsgd", seeds: Sequence[int] = (0,), **changes: Any) -> Federation:
    """Two clients with four pictures each, which train on all of them in each of three rounds."""
    data = FederationData(
        train=pictures(8, seed=1),
        test=pictures(12, seed=2),
        decoys=None,
        classes=CLASSES,
        class_names=("a", "b", "c", "d"),
        source="made",
    )
    fields: dict[str, Any] = {"clients": 2, "batch": 4, "rounds": 3, **changes}
    return Federation(
        starts={seed: linear(seed) for seed in seeds},
        model_name="linear",
        data=data,
        training=parse_training(training),
        **fields,
    )


def run_of(obfuscation: str, *, right: Sequence[float], bits: int, diverged: int | None = None) -> FederatedRun:
    """A training that gets these test pictures right."""
    return FederatedRun(
        obfuscation=obfuscation,
        seed=0,
        accuracy={3: sum(right) / len(right)},
        right=list(right),
        wire_bits=bits,
        weights={},
        diverged=diverged,
    )


def assessment(
    obfuscation: str,
    psnr: Sequence[float] | None,
    *,
    right: Sequence[float] = (1.0,) * 8 + (0.0,) * 2,
    bits: int = 1000,
    candidate: str | None = None,
    target: str = "psnr <= 14",
    bare: Sequence[float] = LEAK["psnr"],
) -> Assessment:
    """What is found of a setting through which attacks reach these PSNR in the first round; None for a divergence."""
    leakage = None
    if psnr is not None:
        name = "client 1, start"
        trials = [made(BASELINE, {"psnr": list(bare), "ssim": [0.8 if bare[0] > 15 else 0.1] * 8}, client=name)]
        if obfuscation != BASELINE:
            trials.append(made(obfuscation, {"psnr": list(psnr), "ssim": NOTHING["ssim"]}, client=name))
        condition = parse_target(target, list(FACTS), ["psnr", "ssim"])
        leakage = judged(trials, {"start": [name]}, obfuscation, condition)
    run = run_of(obfuscation, right=right, bits=bits, diverged=2 if psnr is None else None)
    return Assessment(
        obfuscation=obfuscation,
        candidate=obfuscation if candidate is None else candidate,
        family=parse(obfuscation).family,
        runs=[run],
        leakage=leakage,
        cost=cost_of([run], [run_of(BASELINE, right=(1.0,) * 9 + (0.0,), bits=1000)]),
        classes=CLASSES,
    )


BASE = assessment(BASELINE, LEAK["psnr"], right=(1.0,) * 9 + (0.0,), bits=16_000, candidate="")


def advice(
    *assessments: Assessment,
    baseline: Assessment = BASE,
    candidates: Sequence[str] = (),
    left_out: int = 0,
    target: str = "psnr <= 14",
) -> Advice:
    """An advice with these assessments; the last candidates are left out."""
    texts = list(candidates) or [one.obfuscation for one in assessments] or ["fp16"]
    question = Question(
        federation=federation(),
        auditing=Auditing(attacks=[parse_attack("unveil")], metrics=MetricSelection(), clients=2),
        target=parse_target(target, list(FACTS), ["psnr", "ssim"]),
        candidates=parse_candidates(texts),
        steps=2,
    )
    left = question.candidates[len(question.candidates) - left_out :]
    return Advice(question=question, baseline=baseline, assessments=assessments, left_out=left)
