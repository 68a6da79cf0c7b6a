"""Flower's simulation, for real: what the recorders write of two rounds of two clients."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")

from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from integrations.flower_app import client_app, data, server_app  # noqa: E402
from unveil.captures.flower import recording_mod  # noqa: E402
from unveil.captures.reading import read_recordings  # noqa: E402
from unveil.captures.recording import Recording  # noqa: E402


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Recording]]:
    """Where it was recorded -> the recorded updates of two rounds of two clients."""
    place = tmp_path_factory.mktemp("flower")
    mods = [recording_mod(place / "mod", keep_labels=True, keep_pictures=True)]
    strategy: Any = FedAvg(fraction_evaluate=0.0, min_available_nodes=2)
    run_simulation(
        server_app=server_app(strategy, rounds=2),
        client_app=client_app(mods),
        num_supernodes=2,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}},
    )
    return {"mod": read_recordings(place / "mod")}


def test_the_mod_records_every_round_of_every_client(recorded: dict[str, list[Recording]]) -> None:
    names = [recording.path.name for recording in recorded["mod"]]
    assert names == [f"round-{r}_partition-{p}.safetensors" for r in (1, 2) for p in (0, 1)]
    assert all(recording.path.stat().st_mode & 0o777 == 0o600 for recording in recorded["mod"])


def test_the_manifest_says_what_the_code_of_the_client_does(recorded: dict[str, list[Recording]]) -> None:
    facts = recorded["mod"][1].manifest.facts
    said = {name: fact.value for name, fact in facts.items() if fact.source != "unknown"}
    assert said["labels"] is not None
    assert sorted(said.pop("labels")) == sorted(data(1)[1].tolist())
    assert {name: value for name, value in said.items() if name not in ("framework_version", "input_range")} == {
        "framework": "flower",
        "model": "integrations.flower_app:Net",
        "client": "partition-1",
        "round": 1,
        "learning_rate": 0.01,
        "optimiser": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "steps": 2,
        "epochs": 1,
        "batch_size": 4,
        "examples": 8,
        "loss": "cross_entropy",
        "loss_reduction": "mean",
        "mode": "train",
        "dropout": 0,
        "normalisation": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        "buffers": "sent",
        "image_shape": (3, 8, 8),
        "classes": 4,
    }
    assert facts["learning_rate"].source == "observed"


def test_the_second_round_starts_where_the_first_ended(recorded: dict[str, list[Recording]]) -> None:
    first, second = recorded["mod"][:2], recorded["mod"][2:]
    for name, weight in second[0].before.items():
        mean = sum(recording.client[name].double() for recording in first) / 2
        assert torch.allclose(weight.double(), torch.as_tensor(mean), atol=1e-6 if weight.is_floating_point() else 1)


def test_pictures_are_kept_for_scores(recorded: dict[str, list[Recording]]) -> None:
    from unveil.audits.recorded.truth import load_truth

    recording = recorded["mod"][1]
    kept = load_truth(recording.path.with_suffix(""), (3, 8, 8))
    images, labels = data(1)
    order = [next(n for n in range(8) if torch.allclose(picture, images[n], atol=1e-6)) for picture in kept]
    assert sorted(order) == list(range(8))
    assert list(recording.manifest.labels.value or ()) == labels[order].tolist()
