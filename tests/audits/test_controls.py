"""Controls: runs of the same attack on updates that know nothing of the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator

from seeds import seeded
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER, LABELS, control_batch
from unveil.audits.results import read_trials
from unveil.audits.running import run
from unveil.audits.trial import run_trial
from unveil.cli.config import load
from unveil.clients.client import Client
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.watch import Progress
from unveil.obfuscations import parse as parse_obfuscation


def client(batch: int = 4, *, others: bool = True) -> Client:
    return make_client(
        name="client", model="lenet", images="builtin", size=16, batch=batch, training=FedSGD(), others=others
    )


def rng() -> Generator:
    return seeded(0)


@pytest.mark.slow
def test_another_client_holds_other_pictures() -> None:
    other = control_batch(ANOTHER, client(), generator=rng())
    assert other is not None
    assert len(other) == 4
    assert not set(other.labels.tolist()) & set(client().batch.labels.tolist())
    assert control_batch(ANOTHER, client(others=False), generator=rng()) is None
    assert control_batch(ANOTHER, client(8), generator=rng()) is None  # of the 14 pictures only 6 are left


@pytest.mark.slow
def test_labels_only_has_the_labels_and_none_of_the_pictures() -> None:
    other = control_batch(LABELS, client(), generator=rng())
    assert other is not None
    assert torch.equal(other.labels, client().batch.labels)
    assert float((other.images - client().batch.images).abs().flatten(1).mean(1).min()) > 0.05


@pytest.mark.slow
def test_a_trial_scores_its_controls_far_below_itself(tmp_path: Path) -> None:
    seen: list[Progress] = []
    trial = run_trial(
        client(),
        parse_obfuscation("none"),
        parse_attack("unveil:steps=10"),
        seed=0,
        controls=(ANOTHER, LABELS),
        watch=seen.append,
    )
    assert list(trial.final.controls) == [ANOTHER, LABELS]
    own = min(trial.scores["correlation"])
    for scores in trial.final.controls.values():
        assert list(scores) == list(trial.scores)
        assert own > max(scores["correlation"])
    steps = [progress.step for progress in seen]
    assert steps == sorted(steps)  # three runs are one to whoever waits
    assert steps[-1] == seen[-1].steps == 3 * trial.iterations


@pytest.mark.slow
def test_the_controls_do_not_change_the_trial(tmp_path: Path) -> None:
    def played(*controls: str) -> list[float]:
        trial = run_trial(
            client(),
            parse_obfuscation("qsgd:levels=4,norm=max"),
            parse_attack("unveil:steps=4"),
            seed=3,
            controls=controls,
        )
        return trial.scores["psnr"]

    assert played() == played(ANOTHER, LABELS)


@pytest.mark.slow
def test_a_control_that_cannot_be_run_is_noted(tmp_path: Path) -> None:
    audit = Audit(
        clients=[client(8)],
        obfuscations=[parse_obfuscation("none")],
        attacks=[parse_attack("unveil:steps=2")],
        controls=[ANOTHER, LABELS],
    )
    assert audit.settings()["controls"] == [ANOTHER, LABELS]
    (trial,) = run(audit, tmp_path)
    assert list(trial.final.controls) == [LABELS]
    assert "The control 'another client' was not run: its source has too few pictures." in trial.final.notes
    assert read_trials(tmp_path)[0].final.controls == trial.final.controls


@pytest.mark.slow
def test_a_file_names_them_and_a_wrong_name_is_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    text = '{}[[client]]\nname = "a"\nsize = 16\nbatch = 2\n[[attack]]\nname = "rog"\n'
    path.write_text(text.format(""))
    assert list(load(path).controls) == [ANOTHER]
    assert load(path).clients[0].evaluation.others is not None
    path.write_text(text.format("controls = []\n"))
    assert list(load(path).controls) == []
    assert load(path).clients[0].evaluation.others is None
    path.write_text(text.format('controls = ["another"]\n'))
    with pytest.raises(UsageError, match="there is no 'another'; did you mean 'another client'"):
        load(path)
