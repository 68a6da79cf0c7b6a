"""Names: numbered arrays are those of the model in its order, and a prefix that all names have is taken away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from unveil.captures.manifest import Manifest
from unveil.captures.naming import named_as
from unveil.captures.recording import Recording
from unveil.core.errors import UsageError


def network() -> nn.Module:
    return nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)})


def recording(names: list[str]) -> Recording:
    sent = {name: torch.full((1,), float(number)) for number, name in enumerate(names)}
    manifest = Manifest(order=tuple(names))
    return Recording(path=Path("update.npz"), digest="", manifest=manifest, before=sent, client=sent)


PARAMETERS = ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
STATE = [*PARAMETERS, "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


@pytest.mark.parametrize("form", ["{}", "arr_{}"])
@pytest.mark.parametrize("own", [STATE, PARAMETERS])
def test_numbered_arrays_are_the_models_in_its_order(form: str, own: list[str]) -> None:
    named = named_as(recording([form.format(number) for number in range(len(own))]), network())
    assert list(named.manifest.order) == list(named.sent) == list(named.before) == own
    assert [float(tensor) for tensor in named.sent.values()] == list(range(len(own)))


@pytest.mark.slow
def test_a_resnet18_sends_122_arrays() -> None:
    from torchvision.models import resnet18

    with torch.device("meta"):
        network = resnet18()
    named = named_as(recording([str(number) for number in range(122)]), network)
    state = network.state_dict()
    floats = {name for name in state if state[name].is_floating_point()}
    assert list(named.sent) == list(state)
    assert len(floats & dict(network.named_parameters()).keys()) == 62
    assert len(floats) - 62 == 40
    assert len(state) - len(floats) == 20


def test_other_numbers_of_arrays_are_refused() -> None:
    with pytest.raises(UsageError, match="it has 5 numbered arrays, and the model has 7 tensors, 4 of them parameters"):
        named_as(recording([str(number) for number in range(5)]), network())


@pytest.mark.parametrize("prefix", ["module.", "_module.", "net.model."])
def test_a_common_prefix_is_taken_away(prefix: str) -> None:
    named = named_as(recording([prefix + name for name in STATE]), network())
    assert list(named.sent) == list(named.before) == STATE


def test_names_of_the_model_and_unknown_names_stay() -> None:
    assert list(named_as(recording(PARAMETERS), network()).sent) == PARAMETERS
    strange = ["module.conv.weight", "other"]
    assert list(named_as(recording(strange), network()).sent) == strange
    numbered = nn.ParameterDict({"0": nn.Parameter(torch.zeros(1))})
    assert list(named_as(recording(["0"]), numbered).sent) == ["0"]
