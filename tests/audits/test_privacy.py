"""An audit from the terms in its file to the bound in its report, and an attack that finds more than noise allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fakes import Guess
from seeds import seeded
from unveil.audits.audit import Audit
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.audits.scoring import MetricSelection
from unveil.audits.trial import run_trial
from unveil.cli.app import main
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.obfuscations import parse
from unveil.privacy.gaussian import epsilon_of
from unveil.privacy.terms import PrivacyTerms
from unveil.report.bounds import ContradictionError, bound_of
from unveil.report.html import write_report
from unveil.report.pooling import summarise

DECOYS, BATCH = 60, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty random pictures of each of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    pixels = (torch.rand(80, 8, 8, 3, generator=seeded(0)) * 255).byte().numpy()
    for number, picture in enumerate(pixels):
        path = root / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return root


def client_of(folder: Path, **settings: object) -> Client:
    given = {"name": "c", "model": "lenet", "images": str(folder), "size": 16, "batch": BATCH, "decoys": DECOYS}
    return make_client(**{**given, "training": FedSGD(), **settings})  # type: ignore[arg-type]


def audit_of(client: Client, attack: Guess, spec: str, **others: object) -> Audit:
    metrics = MetricSelection(decoys=DECOYS)
    return Audit(clients=[client], obfuscations=[parse(spec)], attacks=[attack], metrics=metrics, **others)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trial_keeps_what_is_stated(folder: Path) -> None:
    client = client_of(folder, decoys=0, training=FedSGD(clip=1.0, noise=2.0))
    terms = PrivacyTerms(delta=1e-6, rounds=4)
    (stated,) = run_trial(client, parse("fp16"), Guess(), privacy=terms).privacy
    assert stated.epsilon == pytest.approx(epsilon_of(1e-6, 2.0), rel=1e-9)
    assert run_trial(client_of(folder, decoys=0), parse("fp16"), Guess()).privacy == []


def test_chance_is_one_over_the_gallery_of_the_same_label(folder: Path) -> None:
    client = client_of(folder)
    labels = client.evaluation.decoy_labels
    assert labels is not None
    chance = MetricSelection(decoys=DECOYS).chance(client)
    assert chance == [1 / (1 + int((labels == label).sum())) for label in client.labels]
    assert sorted(set(map(round, (1 / c for c in chance)))) == [31]
    # Fewer decoys than the client has, none, and decoys of another source.
    fewer = MetricSelection(decoys=10).chance(client)
    assert [round(1 / c) for c in fewer] == [1 + int((labels[:10] == label).sum()) for label in client.labels]
    assert MetricSelection().chance(client) == []
    assert MetricSelection(decoys=DECOYS).chance(client_of(folder, gallery=str(folder))) == []


def test_a_picture_that_has_a_copy_in_the_batch_is_sure_to_be_found(folder: Path) -> None:
    client = client_of(folder)
    images, labels = client.images.clone(), client.labels.clone()
    images[4], labels[4] = images[1], labels[1]
    chance = MetricSelection(decoys=DECOYS).chance(replace(client, images=images, labels=labels))
    assert [value == 1 for value in chance] == [False, True, False, False, True, False]


@pytest.mark.slow
def test_results_and_report_have_the_bound(folder: Path, tmp_path: Path) -> None:
    audit = audit_of(client_of(folder), Guess(), "dpsgd:clip=1,noise=2", privacy=PrivacyTerms(rounds=3))
    assert audit.settings()["privacy"]["rounds"] == 3
    trials = run(audit, tmp_path)
    assert read_trials(tmp_path) == trials
    baseline, noisy = summarise(trials)
    assert bound_of(baseline) is None
    bound = bound_of(noisy)
    assert bound is not None
    assert 1 / 31 < bound.allowed < 0.2
    assert not bound.contradicts
    assert "What theory allows any attack" in write_report(tmp_path, trials).read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_attack_that_finds_more_than_the_noise_allows_is_an_error_of_ours(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = client_of(folder)
    knowing = Guess(images=client.images)  # as if the noise were not there
    trials = run(audit_of(client, knowing, "dpsgd:clip=1,noise=4"), tmp_path)
    with pytest.raises(ContradictionError, match="found 100% of the pictures of client c first"):
        write_report(tmp_path, trials)
    (tmp_path / "report.html").unlink()
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path)])
    assert left.value.code == 3
    err = capsys.readouterr().err
    assert "Internal error: ContradictionError: the attack guess found 100% of the pictures" in err
    assert "obfuscation dpsgd:clip=1,noise=4" in err
    assert "This is a bug in unveil" in err
    assert (tmp_path / "report.html").is_file()
