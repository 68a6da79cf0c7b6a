"""The head of a network as a network of its own: the body runs once, and has no effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seeds import seeded
from unveil.attacks.separation.heads.tail import Tail


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.computed += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def pooled() -> nn.Sequential:
    """A small network with an activation that works in place."""
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_the_body_is_computed_once_and_the_scores_are_those_of_the_features() -> None:
    model = pooled()
    tail = Tail(model, "4.weight", (3, 8, 8))
    with Convolutions() as convolutions:
        for seed in range(3):
            features = torch.rand((5, 4), generator=seeded(seed))
            assert torch.equal(tail(features), model[4:](features))
    assert convolutions.computed == 1


def test_a_body_of_another_type_is_computed_again() -> None:
    model = pooled()
    tail = Tail(model, "4.weight", (3, 8, 8))
    features = torch.rand((5, 4), generator=seeded())
    with Convolutions() as convolutions:
        tail(features)
        tail.double()
        assert torch.equal(tail(features.double()), model.double()[4:](features.double()))
    assert convolutions.computed == 2


def test_an_exact_tail_computes_the_body_each_time() -> None:
    tail = Tail(pooled(), "4.weight", (3, 8, 8), exact=True)
    with Convolutions() as convolutions:
        for _ in range(2):
            tail(torch.rand((5, 4), generator=seeded()))
    assert convolutions.computed == 2


def test_convolutions_behind_the_features_are_computed_each_time() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 6),
        nn.Unflatten(1, (1, 1, 6)),
        nn.Conv2d(1, 2, (1, 3)),
    )
    tail = Tail(model, "3.weight", (3, 8, 8))
    for seed in range(2):
        features = torch.rand((5, 4), generator=seeded(seed))
        assert torch.equal(tail(features), model[3:](features))
