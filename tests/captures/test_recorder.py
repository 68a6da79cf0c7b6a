"""The recorder: which facts stand above which, what is kept, and that it never stops a training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seeds import seeded
from unveil.audits.recorded.truth import load_truth
from unveil.captures.facts import Fact
from unveil.captures.observing import Observer
from unveil.captures.reading import read_recording
from unveil.captures.recorder import Recorder, attempting
from unveil.core.errors import UsageError

PICTURES = torch.randint(256, (4, 3, 8, 8), generator=seeded(0)).float() / 255
LABELS = torch.tensor([2, 0, 1, 2])
BEFORE = {"weight": torch.zeros(2), "counter": torch.tensor(1)}
AFTER = {"weight": torch.ones(2), "counter": torch.tensor(3)}


def trained(recorder: Recorder, images: torch.Tensor = PICTURES) -> Observer:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    with recorder.observer() as observer:
        nn.functional.cross_entropy(model(images), LABELS).backward()
        optimiser.step()
    return observer


def test_declared_stands_above_observed_and_observed_above_the_rest(tmp_path: Path) -> None:
    recorder = Recorder.into(tmp_path, learning_rate=0.25)
    said = {"examples": Fact(value=9, source="declared"), "framework": Fact(value="flower", source="observed")}
    path = recorder.record(client="a b", round=3, before=BEFORE, sent=AFTER, facts=said, observer=trained(recorder))
    assert path == tmp_path / "round-3_a-b.safetensors"
    facts = read_recording(path).manifest.facts
    assert facts["learning_rate"] == Fact(value=0.25, source="declared")
    assert facts["examples"] == Fact(value=4, source="observed")
    assert facts["framework"].value == "flower"
    assert (facts["client"].value, facts["round"].value) == ("a b", 3)
    assert facts["labels"].value is None
    assert facts["normalisation"] == Fact(value={"mean": [0.0] * 3, "std": [1.0] * 3}, source="estimated")


def test_pictures_and_labels_are_kept_in_their_order(tmp_path: Path) -> None:
    recorder = Recorder.into(
        tmp_path, keep_labels=True, keep_pictures=True, normalisation={"mean": [0.5] * 3, "std": [0.25] * 3}
    )
    path = recorder.record(
        client="x", round=None, before=BEFORE, sent=AFTER, observer=trained(recorder, (PICTURES - 0.5) / 0.25)
    )
    assert path == tmp_path / "x.safetensors"
    assert torch.equal(load_truth(tmp_path / "x", (3, 8, 8)), PICTURES)
    assert read_recording(path).manifest.labels.value == tuple(LABELS.tolist())
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "x").iterdir())


def test_a_difference_is_recorded_as_one(tmp_path: Path) -> None:
    path = Recorder.into(tmp_path).record(client="x", round=1, before=BEFORE, sent=AFTER, part="delta")
    assert torch.equal(read_recording(path).delta["weight"], torch.ones(2))


def test_a_counter_that_a_server_averaged_is_what_the_network_made_of_it(tmp_path: Path) -> None:
    before = BEFORE | {"counter": torch.tensor(1.5, dtype=torch.float64)}
    path = Recorder.into(tmp_path).record(client="x", round=1, before=before, sent=AFTER)
    assert int(read_recording(path).changes["counter"]) == 2


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({"weight": torch.tensor([1.0, float("nan")])}, "holds NaN or infinite values"),
        ({"other": torch.ones(2)}, "has no global/ beside it"),
    ],
)
def test_what_cannot_be_recorded_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: Any, says: str
) -> None:
    with caplog.at_level(logging.WARNING, "unveil"), attempting():
        Recorder.into(tmp_path).record(client="x", round=1, before=BEFORE, sent=sent)
    assert "unveil did not record an update" in caplog.text
    assert says in caplog.text


def test_pictures_of_unknown_normalisation_are_not_kept(tmp_path: Path) -> None:
    recorder = Recorder.into(tmp_path, keep_pictures=True)
    observer = trained(recorder, PICTURES - 0.5)
    with pytest.raises(UsageError, match="round-1_x were normalised before the network, so they were not kept"):
        recorder.record(client="x", round=1, before=BEFORE, sent=AFTER, observer=observer)
    assert read_recording(tmp_path / "round-1_x.safetensors").manifest.normalisation.value is None


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        Recorder.into(tmp_path / "file" / "x").record(client="x", round=1, before=BEFORE, sent=AFTER)


@pytest.mark.parametrize(("facts", "says"), [({"lr": 0.1}, "there is no fact"), ({"steps": -1}, "expected steps")])
def test_facts_that_there_are_not_are_refused_at_once(tmp_path: Path, facts: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Recorder.into(tmp_path, **facts)
