"""A run that keeps the gates of a known map, where rounding would flip some that are nearly zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.test_peeling_equations import drawn
from unveil.attacks.separation.peeling.watch import Gated, convolutions_of, results_of

PICTURES = drawn(2, 3, 4, 4, seed=1)


class Net(nn.Module):
    """A convolution, an activation, another convolution."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1).double(), nn.Conv2d(5, 2, 3).double()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x)))


class Counted(nn.Module):
    """The network behind a call that makes its input: a convolution of the pictures themselves has no source."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * 1.0)


def calls(net: Net) -> tuple[int, int, int]:
    """Return the numbers of the calls of the first convolution, the activation, and the second convolution."""
    first, second = convolutions_of(Counted(net), PICTURES)
    return first.call, second.source, second.call


def slopes(net: Net, gated: dict[int, Gated]) -> tuple[Tensor, Tensor]:
    """Return the result of the last call and the slopes of its sum at the pictures."""
    x = PICTURES.clone().requires_grad_()
    (output,) = results_of(Counted(net), x, (calls(net)[2],), gated=gated).values()
    (found,) = torch.autograd.grad(output.sum(), x)
    return output.detach(), found


ACTIVATIONS = pytest.mark.parametrize(
    ("activation", "most"),
    [(F.relu, torch.inf), (lambda x: F.relu(x, inplace=True), torch.inf), (lambda x: F.hardtanh(x, 0.0, 0.5), 0.5)],
    ids=["relu", "in place", "two sides"],
)


@ACTIVATIONS
def test_a_run_has_the_gates_and_values_that_are_known(activation: Callable[[Tensor], Tensor], most: float) -> None:
    net = Net(activation)
    with torch.no_grad():
        net.first.bias[1] -= net.first(PICTURES)[0, 1, 2, 2] - 1e-9  # one entry is nearly zero
        before = net.first(PICTURES)
        true = before.clamp(0, most)
        is_open = ((before > 0) & (before < most)).double()
        is_open[0, 1, 2, 2] = 0
    values = true + 1e-8
    output, found = slopes(net, {calls(net)[1]: Gated(values=values, is_open=is_open)})
    torch.testing.assert_close(output, net.second(values).detach(), rtol=0, atol=1e-14)
    back = F.conv_transpose2d(torch.ones_like(output), net.second.weight) * is_open
    torch.testing.assert_close(found, F.conv_transpose2d(back, net.first.weight, padding=1).detach())
    assert not torch.allclose(found, slopes(net, {})[1])


def test_what_is_no_activation_or_far_from_known_stays_as_it_was_computed() -> None:
    net = Net(F.relu)
    with torch.no_grad():
        before = net.first(PICTURES)
    usual = slopes(net, {})
    other = Gated(values=1.1 * before.clamp_min(0), is_open=torch.zeros_like(before))
    of_convolution = Gated(values=drawn(*before.shape, seed=2), is_open=torch.ones_like(before))
    for gated in ({calls(net)[1]: other}, {calls(net)[0]: of_convolution}):
        torch.testing.assert_close(slopes(net, gated), usual)
