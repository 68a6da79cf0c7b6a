"""Pictures lie channels last where that is faster, unless the network's own code minds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unveil.core.arithmetic import using
from unveil.core.layouts import CHANNELS_LAST, USUAL, fast_layout
from unveil.core.network import run

SHAPE = (3, 8, 8)


class Viewed(nn.Module):
    """A network that flattens by `view`, as many do, which would need the usual layout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images).relu().view(len(images), -1)


class Written(nn.Module):
    """A network that writes through a view."""

    def forward(self, images: Tensor) -> Tensor:
        images.view(len(images), -1)[:, ::2] = 0
        return images


class Strided(nn.Module):
    """A network whose result depends on the layout, by mistake."""

    def forward(self, images: Tensor) -> Tensor:
        return images * images.stride(1)


def plain(kind: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()).to(kind)


def layout_of(network: nn.Module) -> torch.memory_format:
    def of(images: Tensor, layout: torch.memory_format) -> Tensor:
        found: Tensor = run(network, images, {}, draws=None, layout=layout)
        return found

    return fast_layout(of, SHAPE, torch.device("cpu"))


@pytest.mark.parametrize(
    ("network", "capability", "arithmetic", "layout"),
    [
        (plain(), "AVX512", "float32", CHANNELS_LAST),
        (plain(), "AVX2", "float32", USUAL),
        (plain(), "AVX512", "bfloat16", USUAL),
        (plain(torch.float64), "AVX512", "float32", USUAL),
        (Viewed(), "AVX512", "float32", CHANNELS_LAST),
        (Written(), "AVX512", "float32", USUAL),
        (Strided(), "AVX512", "float32", USUAL),
    ],
)
def test_the_layout_suits_processor_and_network(
    network: nn.Module,
    capability: str,
    arithmetic: object,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with using(arithmetic):  # type: ignore[arg-type]
        assert layout_of(network) == layout
