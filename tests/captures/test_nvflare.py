"""What of `unveil.captures.nvflare` needs no NVFlare; with it, see `tests/integrations`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unveil.captures import nvflare
from unveil.captures.nvflare import recorded, spec_of_filter
from unveil.captures.reading import read_recording
from unveil.core.errors import UsageError
from unveil.obfuscations import parse


@pytest.mark.parametrize("name", ["record", "obfuscate", "RecordingFilter", "ObfuscationFilter", "KeepingFilter"])
def test_without_nvflare_one_sentence_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvflare", None)
    with pytest.raises(UsageError, match=r"is not installed; pip install 'unveil\[nvflare\]'"):
        getattr(nvflare, name)
    assert name in nvflare.__all__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recordd'"):
        _ = nvflare.recordd


@pytest.mark.slow
def test_the_import_leaves_nvflare_alone() -> None:
    code = "import sys, unveil.captures.nvflare; print(sorted({'nvflare', 'flwr'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "arguments", "more", "spec"),
    [
        ("PercentilePrivacy", {}, {}, "percentile:percent=10+clamp:limit=0.01"),
        ("PercentilePrivacy", {"percentile": 90, "gamma": 0.5}, {}, "percentile:percent=90+clamp:limit=0.5"),
        ("PercentilePrivacy", {"percentile": 90}, {"steps": 4}, "percentile:percent=90+clamp:limit=0.04"),
        ("PercentilePrivacy", {"percentile": 101}, {}, "none"),
        ("PercentilePrivacy", {"gamma": 0}, {}, "none"),
        ("SVTPrivacy", {}, {}, "svt"),
        ("SVTPrivacy", {"fraction": 0.5, "tau": 0}, {"steps": 2}, "svt:fraction=0.5,gamma=2e-05,tau=0"),
        ("SVTPrivacy", {"epsilon_release": 30.0}, {"entries": 1000}, "svt:noise_var=0.3"),
        ("SVTPrivacy", {"epsilon_query": 0.05, "replace": False}, {}, "svt:replace=false,epsilon_query=0.05"),
        ("ModelQuantizer", {}, {}, "fp16"),
        ("ModelQuantizer", {"quantization_type": "BlockWise8"}, {}, "blockwise8"),
        ("ModelQuantizer", {"quantization_type": "float4"}, {}, "fp4"),
        ("ModelQuantizer", {"quantization_type": "normfloat4"}, {}, "nf4"),
        ("ExcludeVars", {"exclude_vars": "head"}, {}, "none"),
    ],
)
def test_filters_of_nvflare_are_understood(
    name: str, arguments: dict[str, Any], more: dict[str, Any], spec: str
) -> None:
    assert spec_of_filter(name, arguments, **more) == spec
    assert str(parse(spec)) == spec


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("HEModelEncryptor", {}, "not known what the filter HEModelEncryptor does; declare the obfuscation"),
        ("ModelQuantizer", {"quantization_type": "adaquant"}, "quantiser adaquant is none of unveil's obfuscations"),
        ("SVTPrivacy", {"epsilon_release": 1.0}, "depends on the update's size; give entries"),
    ],
)
def test_what_is_not_understood_is_said_in_a_sentence(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        spec_of_filter(name, arguments)


class API:
    """NVFlare's client API as far as a training script uses it: three tasks, one of them an evaluation."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.task = -1
        self.sent: list[Any] = []

    def receive(self) -> Any:
        self.task += 1
        return SimpleNamespace(params=self.weights, current_round=self.task)

    def is_train(self) -> bool:
        return self.task != 1

    def get_site_name(self) -> str:
        return "site-1"

    def send(self, model: Any) -> str:
        self.sent.append(model)
        return "sent"


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 2))


@pytest.mark.parametrize("kind", ["FULL", "DIFF"])
def test_the_client_api_is_recorded_and_otherwise_its_own(
    kind: str, tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unveil.captures.nvflare.records.version", lambda name: "2.9.0")
    api = API({name: tensor.clone() for name, tensor in network.state_dict().items()})
    flare = recorded(api, tmp_path, keep_labels=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        received = flare.receive()
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(torch.full((2, 1, 1, 3), 0.5)), torch.tensor([1, 0])).backward()
        optimiser.step()
        after = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        params = {n: after[n] - received.params[n] for n in after} if kind == "DIFF" else after
        model = SimpleNamespace(params=params, params_type=SimpleNamespace(value=kind))
        assert flare.send(model) == "sent"
        assert api.sent[-1] is model
    assert flare.get_site_name() == "site-1"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0_site-1.safetensors",
        "round-2_site-1.safetensors",
    ]
    recording = read_recording(tmp_path / "round-2_site-1.safetensors")
    for name, change in recording.changes.items():
        assert torch.equal(change, after[name] - api.weights[name])
        assert torch.equal(recording.before[name], api.weights[name])
    facts = recording.manifest.facts
    assert (facts["framework"].value, facts["round"].value, facts["client"].value) == ("nvflare", 2, "site-1")
    assert (facts["learning_rate"].value, facts["steps"].value, facts["optimiser"].value) == (0.5, 1, "sgd")


def test_what_is_sent_without_training_is_not_recorded(tmp_path: Path) -> None:
    api = API({"w": torch.zeros(1)})
    flare = recorded(api, tmp_path)
    assert flare.send(SimpleNamespace(params={"w": torch.ones(1)}, params_type="FULL")) == "sent"
    flare.receive()
    assert flare.send(SimpleNamespace(params=None, params_type=None)) == "sent"
    assert not list(tmp_path.iterdir())


def test_a_fact_that_there_is_not_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no fact"):
        recorded(API({}), tmp_path, momentun=0.9)
