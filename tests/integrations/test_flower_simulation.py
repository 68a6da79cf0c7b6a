"""Flower's simulation, for real: what the recorders write of two rounds of two clients, beside one another."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")

from flwr.common import ndarrays_to_parameters  # noqa: E402
from flwr.server import ServerApp, ServerAppComponents, ServerConfig  # noqa: E402
from flwr.server.strategy import FedAvg as LegacyFedAvg  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from integrations.flower_app import Net, client_app, data, first_weights, legacy_app, server_app  # noqa: E402
from unveil.captures.conversion import update_of  # noqa: E402
from unveil.captures.flower import drive, obfuscation_mod, recording_mod, recording_strategy  # noqa: E402
from unveil.captures.naming import named_as  # noqa: E402
from unveil.captures.reading import read_recording, read_recordings  # noqa: E402
from unveil.captures.recording import Recording  # noqa: E402

RESOURCES: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
TOPK = "topk:density=0.05"

Recorded = dict[str, list[Recording]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module")
def app(folder: Path) -> Any:
    """A client that records before and after it obfuscates."""
    return client_app(
        [
            recording_mod(folder / "after"),
            obfuscation_mod(TOPK, seed=0),
            recording_mod(folder / "before", keep_labels=True, keep_pictures=True),
        ],
        keep_input=False,
    )


@pytest.fixture(scope="module")
def recorded(folder: Path, app: Any) -> Recorded:
    """Where it was recorded -> the recorded updates of two rounds of two clients."""
    strategy = recording_strategy(FedAvg(fraction_evaluate=0.0, min_available_nodes=2), folder / "server")
    run_simulation(server_app(strategy, rounds=2), app, num_supernodes=2, backend_config=RESOURCES)
    return {place: list(read_recordings(folder / place)) for place in ("after", "before", "server")}


def are_equal(one: Recording, other: Recording) -> bool:
    """Whether two recordings have the same tensors, in the same order, bit for bit."""
    parts = [(one.before, other.before), (one.client, other.client)]
    return one.manifest.order == other.manifest.order and all(
        a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)
        for a, b in parts
    )


def test_the_mod_records_every_round_of_every_client(recorded: Recorded) -> None:
    for place in ("after", "before"):
        names = [recording.path.name for recording in recorded[place]]
        assert names == [f"round-{r}_partition-{p}.safetensors" for r in (1, 2) for p in (0, 1)]
    assert all(recording.path.stat().st_mode & 0o777 == 0o600 for recording in recorded["after"])


def test_the_strategy_records_what_the_mod_records_bit_for_bit(recorded: Recorded) -> None:
    assert len(recorded["server"]) == 4
    for mine in recorded["after"]:
        same = [r for r in recorded["server"] if r.manifest.round == mine.manifest.round and are_equal(r, mine)]
        assert len(same) == 1
        facts = same[0].manifest.facts
        assert (facts["examples"].value, facts["examples"].source) == (8, "declared")
        assert facts["learning_rate"].value is None


def test_the_driver_records_what_the_mod_records_bit_for_bit(recorded: Recorded, app: Any, tmp_path: Path) -> None:
    for mine in recorded["after"]:
        number, partition = mine.manifest.round.value or 0, int((mine.manifest.client.value or "")[-1])
        config = {"lr": 0.01}
        path = drive(app, mine.before, tmp_path, config=config, partition=partition, partitions=2, round=number)
        driven = read_recording(path)
        assert path.name == mine.path.name
        assert are_equal(driven, mine)
        assert driven.manifest == mine.manifest
        assert len(list(path.with_suffix("").iterdir())) == 8


def test_the_manifest_says_what_the_code_of_the_client_does(recorded: Recorded) -> None:
    facts = recorded["before"][1].manifest.facts
    said = {name: fact.value for name, fact in facts.items() if fact.source != "unknown"}
    assert sorted(said.pop("labels") or ()) == sorted(data(1)[1].tolist())
    assert {name: value for name, value in said.items() if name not in ("framework_version", "input_range")} == {
        "framework": "flower",
        "model": "integrations.flower_app:Net",
        "client": "partition-1",
        "round": 1,
        "learning_rate": 0.01,
        "optimiser": "sgd",
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "steps": 2,
        "epochs": 1,
        "batch_size": 4,
        "examples": 8,
        "loss": "cross_entropy",
        "loss_reduction": "mean",
        "label_smoothing": 0.0,
        "mode": "train",
        "dropout": 0,
        "normalisation": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        "buffers": "sent",
        "image_shape": (3, 8, 8),
        "classes": 4,
    }
    assert facts["learning_rate"].source == "observed"


def test_first_in_the_list_sees_what_was_obfuscated_and_last_what_was_not(recorded: Recorded) -> None:
    for after, before in zip(recorded["after"], recorded["before"], strict=True):
        assert after.manifest.obfuscation.value == TOPK
        assert before.manifest.obfuscation.value is None
        sent, own = update_of(after, Net()), update_of(before, Net())
        for name, tensor in own.tensors.items():
            kept = sent.tensors[name] != 0
            assert int(kept.sum()) == math.ceil(0.05 * tensor.numel())
            assert torch.allclose(sent.tensors[name][kept], tensor[kept], atol=1e-7)
        assert sent.buffers is not None
        assert own.buffers is not None
        for name, tensor in own.buffers.statistics.tensors.items():
            assert torch.equal(sent.buffers.statistics.tensors[name], tensor)


def test_the_second_round_starts_where_the_first_ended(recorded: Recorded) -> None:
    first, second = recorded["after"][:2], recorded["after"][2:]
    for name, weight in second[0].before.items():
        mean = torch.stack([recording.client[name].double() for recording in first]).mean(dim=0)
        assert torch.allclose(weight.double(), mean, atol=1e-6)


def test_pictures_are_kept_for_scores(recorded: Recorded) -> None:
    from unveil.audits.recorded.truth import load_truth

    recording = recorded["before"][1]
    kept = load_truth(recording.path.with_suffix(""), (3, 8, 8))
    images, labels = data(1)
    order = [next(n for n in range(8) if torch.allclose(picture, images[n], atol=1e-6)) for picture in kept]
    assert sorted(order) == list(range(8))
    assert list(recording.manifest.labels.value or ()) == labels[order].tolist()


def test_legacy_clients_and_servers_are_recorded_bit_for_bit(folder: Path) -> None:
    names = list(Net().state_dict())
    obfuscation = obfuscation_mod("topk:density=0.05", seed=0, order=names)
    app = legacy_app([recording_mod(folder / "legacy"), obfuscation])
    weights = ndarrays_to_parameters([tensor.numpy() for tensor in first_weights().values()])
    inner = LegacyFedAvg(
        fraction_evaluate=0.0,
        min_available_clients=2,
        initial_parameters=weights,
        on_fit_config_fn=lambda number: {"lr": 0.01},
    )
    strategy = recording_strategy(inner, folder / "legacy-server")
    server = ServerApp(server_fn=lambda _: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1)))
    run_simulation(server, app, num_supernodes=2, backend_config=RESOURCES)
    mods, servers = read_recordings(folder / "legacy"), read_recordings(folder / "legacy-server")
    assert [r.path.name for r in mods] == [f"round-1_partition-{p}.safetensors" for p in (0, 1)]
    for partition, mine in enumerate(mods):
        assert mine.manifest.order == tuple(map(str, range(len(names))))
        assert sum(are_equal(mine, other) for other in servers) == 1
        path = drive(app, first_weights(), folder / "drive", config={"lr": 0.01}, partition=partition, partitions=2)
        driven = read_recording(path)
        assert are_equal(driven, mine)
        assert driven.manifest == mine.manifest
        update = update_of(named_as(mine, Net()), Net())
        assert update.buffers is not None
        assert int(update.buffers.counters["body.1.num_batches_tracked"]) == 2
