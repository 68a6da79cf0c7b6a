"""The example's own apps: what one of its clients sends, and that the README's commands name what is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from unveil.captures.flower import drive  # noqa: E402
from unveil.captures.reading import read_recording  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "flower_quickstart"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules `app` and `task` of the example."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLE), *sys.path])
    import app
    import task

    return app, task


def test_a_client_of_the_example_is_recorded_as_its_code_is_written(example: Any, tmp_path: Path) -> None:
    app, task = example
    pictures = task.tiles()
    normalisation = {"mean": [0.5] * 3, "std": [0.5] * 3}
    client = app.client_app(tmp_path / "mods", "topk:density=0.05", pictures)
    run: Any = {"config": {"lr": 0.01}, "partition": 1, "partitions": 8, "round": 2, "normalisation": normalisation}
    path = drive(client, task.Net().state_dict(), tmp_path / "driven", **run)
    sent = read_recording(tmp_path / "mods" / "sent" / path.name)
    assert {n: t.tolist() for n, t in sent.client.items()} == {
        n: t.tolist() for n, t in read_recording(path).client.items()
    }
    facts = {name: fact.value for name, fact in sent.manifest.facts.items()}
    assert (facts["steps"], facts["batch_size"], facts["examples"], facts["classes"]) == (1, 8, 8, 10)
    assert (facts["learning_rate"], facts["momentum"], facts["mode"]) == (0.01, 0.9, "train")
    assert (facts["obfuscation"], facts["normalisation"]) == ("topk:density=0.05", normalisation)
    before = read_recording(tmp_path / "mods" / "before" / path.name)
    assert before.manifest.obfuscation.value is None
    through, whole = (sum(int((t != 0).sum()) for t in one.changes.values()) for one in (sent, before))
    assert through < 0.06 * 62006
    assert whole > 3 * through  # how many weights a step changes depends on which gates are open


def test_the_tiles_are_many_and_no_two_are_alike(example: Any) -> None:
    _, task = example
    images, labels = task.tiles()
    assert len(images) >= 8 * 2 * 8 + 200  # clients, rounds, pictures and decoys of run.py
    assert set(labels.tolist()) == set(range(10))
    flat = images.flatten(1)
    distances = torch.cdist(flat, flat, p=1) / flat.shape[1] + torch.eye(len(flat))
    assert float(distances.min()) > 0.5 / 255
