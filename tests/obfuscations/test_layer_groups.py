"""The groups of a network's layers: each trained parameter is in one of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fakes import small_client
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.obfuscations.layer_groups import layer_groups
from unveil.obfuscations.parameters import select


class Named(nn.Module):
    """A module called as a word, a parameter of its own, a frozen layer, and a head beside a block."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Conv2d(3, 2, 1)
        self.token = nn.Parameter(torch.zeros(2, 1, 1))
        self.frozen = nn.Conv2d(2, 2, 1).requires_grad_(False)
        self.rest = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.frozen(self.bias(x) + self.token))


BATCH = Batch(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(2))


@pytest.mark.parametrize("wrapped", [False, True])
def test_blocks_are_as_far_outside_as_the_head_allows(wrapped: bool) -> None:
    model: nn.Module = nn.Sequential(Named()) if wrapped else Named()
    groups = layer_groups(model, BATCH, FedSGD())
    own = "0." if wrapped else ""
    assert groups == ["head", f"{own}token", f"{own}bias" if wrapped else "bias.*", f"{own}rest.0"]
    means = [select([group], model, BATCH.images, FedSGD()) for group in groups]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set().union(*means) == trained
    assert sum(map(len, means)) == len(trained)


def test_the_head_of_several_linear_layers_is_one_group() -> None:
    model, batch = small_client()
    assert layer_groups(model, batch, FedSGD()) == ["head", "features"]
