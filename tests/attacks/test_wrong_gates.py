"""Wrong gates behind a convolution are found by what they leave of its gradient, with fewer entries than places too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.test_peeling_equations import convolution, drawn
from unveil.attacks.separation.peeling.equations import Reading, weight_gradient
from unveil.attacks.separation.peeling.wrong_gates import flipped

N, OUT = 2, 4


def case(wrong: list[tuple[int, int, int, int]], *, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the true gates, those with some turned over, what is found of them, and which could be wrong."""
    layer = convolution(3, 1, 1, side=5, out=OUT)
    assert layer.equations // OUT * layer.input_shape[0] < N * layer.places  # a row cannot be solved for all slopes
    x, opened = drawn(N, *layer.input_shape, seed=3), drawn(N, *layer.output_shape, seed=4)
    true = (drawn(N, *layer.output_shape, seed=5) > 0).double()
    gradient = weight_gradient(layer, x, opened * true)
    gradient = gradient + noise * float(gradient.std()) * drawn(*gradient.shape, seed=6)
    gates = true.clone()
    for place in wrong:
        gates[place] = 1 - gates[place]
    reading = Reading(layer=layer, gradient=gradient, slopes=opened * gates)
    is_doubtful = drawn(N, *layer.output_shape, seed=7) > 0
    for place in wrong:
        is_doubtful[place] = True
    return true, gates, flipped(reading, opened, gates, is_doubtful, x), is_doubtful


@pytest.mark.parametrize(
    "wrong", [[(0, 1, 2, 3)], [(1, 0, 0, 0), (0, 3, 4, 5)], [(0, 2, 1, 1), (1, 2, 3, 4)]], ids=["one", "rows", "a row"]
)
def test_wrong_gates_are_turned_over(wrong: list[tuple[int, int, int, int]]) -> None:
    true, gates, found, _ = case(wrong, noise=1e-9)
    assert not torch.equal(gates, true)
    assert torch.equal(found, true)


def test_right_gates_stay_through_rounding() -> None:
    true, _, found, _ = case([], noise=1e-4)
    assert torch.equal(found, true)


def test_a_gate_that_is_not_in_doubt_stays() -> None:
    layer = convolution(3, 1, 1, side=5, out=OUT)
    x, opened = drawn(N, *layer.input_shape, seed=3), drawn(N, *layer.output_shape, seed=4)
    gates = torch.ones_like(opened)
    gates[0, 1, 2, 3] = 0
    reading = Reading(layer=layer, gradient=weight_gradient(layer, x, opened), slopes=opened * gates)
    sure = torch.zeros_like(gates, dtype=torch.bool)
    assert torch.equal(flipped(reading, opened, gates, sure, x), gates)
    assert torch.equal(flipped(reading, opened, gates, ~sure, x), torch.ones_like(gates))
