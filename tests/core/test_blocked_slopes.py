"""The slope of a convolution by blocks is autograd's, and is left to autograd where more than it is needed."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seeds import seeded
from unveil.core import blocked_slopes
from unveil.core.blocked_slopes import BlockedSlopes, slope_in_input

SIZES = [(8, 8), (9, 11), (16, 7)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (5, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (2, 1)])
def test_slopes_are_those_of_autograd(channels: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    tried = 0
    for size, padding in itertools.product(SIZES, [(0, 0), (1, 1), (2, 2), (3, 1), (8, 8)]):
        if any(s + 2 * p < k for s, p, k in zip(size, padding, kernel, strict=True)):
            continue
        generator = seeded(tried)
        images = torch.rand((2, channels, *size), generator=generator, dtype=torch.float64, requires_grad=True)
        weight = torch.randn((5, channels, *kernel), generator=generator, dtype=torch.float64)
        output = F.conv2d(images, weight, None, stride, padding)
        slope = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        (expected,) = torch.autograd.grad(output, images, slope)
        torch.testing.assert_close(slope_in_input(slope, weight, stride, padding, size), expected)
        tried += 1
    assert tried > 5


def blocks_used(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The slopes that are computed by blocks from now on."""
    used: list[Tensor] = []

    def counted(slope: Tensor, *others: object) -> Tensor:
        used.append(slope)
        found: Tensor = slope_in_input(slope, *others)  # type: ignore[arg-type]
        return found

    monkeypatch.setattr(blocked_slopes, "slope_in_input", counted)
    return used


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_has_the_same_slopes_by_blocks(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    used = blocks_used(monkeypatch)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    network.requires_grad_(False)
    images = torch.rand((2, 3, 17, 12), generator=seeded(1)).contiguous(memory_format=layout).requires_grad_()
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    assert not used
    with BlockedSlopes():
        (found,) = torch.autograd.grad(network(images).square().sum(), images)
    assert len(used) == 1  # the second convolution has too many channels
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_weights_and_second_derivatives_are_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    used = blocks_used(monkeypatch)
    images = torch.rand((1, 3, 8, 8), generator=seeded(0)).requires_grad_()
    weight = torch.rand((2, 3, 3, 3), generator=seeded(1)).requires_grad_()
    with BlockedSlopes():
        value = F.conv2d(images, weight).square().sum()
        (slope,) = torch.autograd.grad(value, weight, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), images)
        wide = F.conv2d(images.double(), weight.detach().double()).sum()  # float64 is left alone too
        torch.autograd.grad(wide, images)
        with torch.no_grad():
            F.conv2d(images, weight.detach())
    assert bool(second.any())
    assert not used
