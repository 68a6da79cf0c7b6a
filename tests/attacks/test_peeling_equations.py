"""The equations of a map: their transposes, their number, and what the network's shapes let expect of the walk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fakes import convolution_on
from seeds import seeded
from unveil.attacks.separation.peeling.equations import Passing, Reading, weight_gradient
from unveil.attacks.separation.peeling.plan import missing_equations
from unveil.attacks.separation.peeling.solving import solve_input
from unveil.attacks.separation.peeling.watch import Convolution

N, INSIDE = 2, 3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)).double()


def convolution(
    kernel: int, stride: int, padding: int, *, side: int, out: int = 4, inside: int = INSIDE
) -> Convolution:
    weight = drawn(out, inside, kernel, kernel, seed=1)
    return convolution_on(torch.zeros((1, inside, side, side + 1)).double(), weight, stride=stride, padding=padding)


def reading(layer: Convolution, x: Tensor, *, seed: int = 2) -> Reading:
    slopes = drawn(len(x), *layer.output_shape, seed=seed)
    return Reading(layer=layer, gradient=weight_gradient(layer, x, slopes), slopes=slopes)


SHAPES = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [(3, 1, 1, 5), (3, 2, 1, 6), (1, 2, 0, 6), (7, 2, 3, 9), (5, 4, 2, 11), (3, 2, 0, 7), (1, 1, 0, 4)],
)


@SHAPES
def test_a_reading_is_the_gradient_of_the_weight_and_its_equations_are_those_of_its_transpose(
    kernel: int, stride: int, padding: int, side: int
) -> None:
    layer = convolution(kernel, stride, padding, side=side)
    x = drawn(N, *layer.input_shape, seed=3)
    weight = layer.weight.clone().requires_grad_()
    read = reading(layer, x)
    (F.conv2d(x, weight, stride=stride, padding=padding) * read.slopes).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(read(x), weight.grad)
    twice = read.transposed(read(x))
    columns = x.transpose(0, 1).flatten(1) @ read.gram()
    torch.testing.assert_close(columns, twice.transpose(0, 1).flatten(1))


@SHAPES
def test_missing_equations_are_counted_as_the_rank_of_random_equations_shows(
    kernel: int, stride: int, padding: int, side: int
) -> None:
    layer = convolution(kernel, stride, padding, side=side)
    gram = reading(layer, drawn(N, *layer.input_shape, seed=3)).gram()
    rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
    counted = missing_equations([layer], N)
    assert counted >= INSIDE * (len(gram) - rank)
    if padding == 0 or stride > 1:  # otherwise places at the border, which fewer weights read, need no equation more
        assert counted == INSIDE * (len(gram) - rank)


def test_a_known_map_behind_is_linear_in_the_unknown_one_and_has_the_right_transpose() -> None:
    layer = convolution(3, 1, 1, side=5, out=INSIDE)
    x, y = drawn(N, *layer.input_shape, seed=3), drawn(N, *layer.output_shape, seed=4)
    is_open = (drawn(N, *layer.output_shape, seed=5) > 0).double()
    scale, direct = drawn(INSIDE, seed=6), drawn(INSIDE, seed=7)
    passing = Passing(layers=(layer,), scales=(scale,), direct=direct, values=y, is_open=is_open)
    expected = (F.conv2d(x, layer.weight, padding=1) * scale[:, None, None] + x * direct[:, None, None]) * is_open
    torch.testing.assert_close(passing(x), expected)
    torch.testing.assert_close((passing(x) * y).sum(), (x * passing.transposed(y)).sum())


@pytest.mark.slow
def test_known_maps_behind_make_up_for_missing_equations() -> None:
    layer = convolution(3, 2, 1, side=6, out=14)
    x = drawn(N, *layer.input_shape, seed=3)
    read = reading(layer, x)
    assert missing_equations([layer], N) > 0
    output = F.conv2d(x, layer.weight, stride=2, padding=1)
    is_open = (output > 0).double()
    ones = torch.ones(len(layer.weight)).double()
    behind = Passing(layers=(layer,), scales=(ones,), direct=None, values=output * is_open, is_open=is_open)

    def off(found: Tensor) -> float:
        return float((found - x).norm() / x.norm())

    assert off(solve_input([read], []).values) > 0.05
    assert off(solve_input([read], [behind]).values) < 1e-6


def test_rows_whose_slopes_are_wrong_are_left_out() -> None:
    layer = convolution(3, 1, 1, side=5, out=24)
    x = drawn(N, *layer.input_shape, seed=3)
    read = reading(layer, x)
    slopes = read.slopes.clone()
    slopes[0, 5, 2, 2] = 0.0
    found = solve_input([Reading(layer=layer, gradient=read.gradient, slopes=slopes)], []).values
    assert float((found - x).norm() / x.norm()) < 1e-9


@pytest.mark.slow
def test_the_deviation_is_that_of_errors_over_many_drawings() -> None:
    layer = convolution(3, 2, 1, side=6, out=30)
    x = drawn(N, *layer.input_shape, seed=3)
    read = reading(layer, x)
    size = 1e-3 * float(read.gradient.std())
    errors, expected = [], []
    for seed in range(40):
        noisy = Reading(
            layer=layer,
            gradient=read.gradient + size * drawn(*read.gradient.shape, seed=100 + seed),
            slopes=read.slopes,
        )
        solved = solve_input([noisy], [])
        errors.append((solved.values - x).square().mean(1, keepdim=True))
        expected.append(solved.deviation.square())
    ratio = (torch.stack(errors).mean(0) / torch.stack(expected).mean(0)).sqrt()
    assert 0.95 < float(ratio.mean()) < 1.05
    assert 0.7 < float(ratio.min()) < float(ratio.max()) < 1.3  # 120 errors a place
