"""Maps on the way to the deepest one: how far they may be off, and what a search makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attacks.test_peeling import SHAPE, Block, Residual, batch_of, made, peeling_of
from attacks.test_peeling_equations import convolution, drawn, reading
from seeds import seeded
from unveil.attacks.separation.heads.head import PooledError, read_head
from unveil.attacks.separation.inner_maps import ComputesInnerMaps, InnerEstimate
from unveil.attacks.separation.peeled import _body_of
from unveil.attacks.separation.peeling.equations import Reading
from unveil.attacks.separation.peeling.network import Network
from unveil.attacks.separation.peeling.peel import Found
from unveil.attacks.separation.peeling.peeled_map import InputMap, PeeledMap
from unveil.attacks.separation.peeling.plan import planned
from unveil.attacks.separation.peeling.solving import Solved, solve_input
from unveil.attacks.separation.peeling.top import last_convolution
from unveil.clients.training import FedSGD


def test_the_misfit_is_half_the_squared_distance_in_units_of_the_errors() -> None:
    target, found = drawn(2, 3, 2, 2, seed=1), drawn(2, 3, 2, 2, seed=2).requires_grad_()
    root = drawn(8, 8, seed=3)
    covariance, floor = root @ root.T, 0.3
    misfit = InnerEstimate(values=target, covariance=covariance).misfit(floor)
    whole = covariance + floor**2 * float(target.var()) * torch.eye(8).double()
    off = (found - target).transpose(0, 1).flatten(1)
    expected = 0.5 * (off @ torch.linalg.inv(whole) * off).sum()
    torch.testing.assert_close(misfit(found), expected)
    (slope,) = torch.autograd.grad(misfit(found), found)
    (right,) = torch.autograd.grad(expected, found)
    torch.testing.assert_close(slope, right)


def test_variances_alone_count_as_a_covariance_without_ties() -> None:
    target, found = drawn(2, 3, 2, 2, seed=1), drawn(2, 3, 2, 2, seed=2)
    variances = drawn(8, seed=3).square()
    alone = InnerEstimate(values=target, covariance=variances).misfit(0.1)(found)
    tied = InnerEstimate(values=target, covariance=torch.diag(variances)).misfit(0.1)(found)
    torch.testing.assert_close(alone, tied)


def test_a_map_that_the_equations_determine_is_not_drawn_to_zero() -> None:
    layer = convolution(3, 1, 1, side=5, out=30)
    x = drawn(2, *layer.input_shape, seed=3)
    equations = solve_input([reading(layer, x)], []).equations
    assert equations is not None
    values, deviation, _ = equations.most_probable(x)
    assert float((values - x).norm() / x.norm()) < 1e-6
    assert float(deviation.max()) < 1e-6


def test_wrong_gates_do_less_harm_to_the_most_probable_map_where_equations_are_few() -> None:
    layer = convolution(3, 1, 1, side=5, out=7)  # 63 equations for 60 places
    x = drawn(2, *layer.input_shape, seed=3)
    right = reading(layer, x)
    slopes = right.slopes.clone()
    slopes[0, 5, 2, 2] = slopes[1, 2, 0, 3] = slopes[1, 4, 3, 1] = 0.0
    solved = solve_input([Reading(layer=layer, gradient=right.gradient, slopes=slopes)], [])
    assert solved.equations is not None
    values, deviation, covariance = solved.equations.most_probable(solved.values)

    def off(found: Tensor) -> float:
        return float((found - x).norm() / x.norm())

    assert off(values) < off(solved.values)
    assert covariance is not None
    torch.testing.assert_close(covariance.diagonal().sqrt(), deviation.flatten())
    # The errors lie where the covariance says: weighed by it they are of its size or less.
    error = (values - x).transpose(0, 1).flatten(1)
    weighed = error @ torch.linalg.inv(covariance + 1e-9 * torch.eye(60).double()) * error
    assert math.sqrt(float(weighed.mean(1).mean()) / 60) < 1.5


def test_a_map_that_drowns_in_noise_is_drawn_to_zero_and_counts_as_unsure() -> None:
    layer = convolution(3, 1, 1, side=5, out=8)
    x = drawn(2, *layer.input_shape, seed=3)
    right = reading(layer, x)
    noise = 10 * float(right.gradient.std()) * drawn(*right.gradient.shape, seed=8)
    equations = solve_input([Reading(layer=layer, gradient=noise, slopes=right.slopes)], [], noisy=True).equations
    assert equations is not None
    values, deviation, _ = equations.most_probable(equations.solution(torch.zeros_like(x)))
    assert float(values.std()) < 0.5 * float(deviation.mean())


class Narrow(Residual):
    """A ResNet whose first convolution of a block gives too few equations for its input."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(12, 16, 2, inplace=True), Block(16, 96, 2, inplace=True))


@pytest.mark.slow
def test_maps_inside_a_block_are_found_and_computed_by_the_body() -> None:
    net, batch = made(Narrow).double(), batch_of([0, 3, 5])
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    head = pooled.value.head
    found = peeling_of(net, batch).deepest(head.features(batch.images), head)
    assert found.deepest.before == "blocks.1.first.weight"
    assert [one.before for one in found.inner] == ["blocks.0.second.weight"]
    inputs: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda module, args, output, name=name: inputs.__setitem__(f"{name}.weight", args[0].detach().clone())
            )
    pictures = batch.images.double()
    net(pictures)
    body = _body_of(net, found, SHAPE)
    assert isinstance(body, ComputesInnerMaps)
    features, maps = body.features_and_inner(pictures)
    torch.testing.assert_close(features, inputs[found.deepest.before].flatten(1))
    for one, computed in zip(found.inner, maps, strict=True):
        torch.testing.assert_close(computed, inputs[one.before])
        assert one.unsure < 1e-3
        assert float((one.values - computed).norm() / computed.norm()) < 1e-3
    other = torch.rand(pictures.shape, generator=seeded(5)).double()
    assert not torch.allclose(body.features_and_inner(other)[1][0], maps[0])


@pytest.mark.slow
@pytest.mark.parametrize(("off", "behind", "expected"), [(1e-6, 1e-6, 1), (1e-6, 5e-3, 0), (5e-3, 1e-6, 0)])
def test_a_map_whose_errors_are_not_known_is_used_beside_an_exact_one_alone(
    off: float, behind: float, expected: int
) -> None:
    net, batch = made(Residual).double(), batch_of([0, 3])
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    head, peeling = pooled.value.head, peeling_of(net, batch)
    network = Network.of(net, peeling.images, peeling.gradients)
    step = planned(network, last_convolution(network, head).layer, count=2).steps[-1]
    values = torch.rand((2, *step.layer.input_shape), generator=seeded(5)).double()
    deepest = InputMap(before="blocks.1.second.weight", padded=(0, 0, 0, 0), values=values, deviation=None)
    best = PeeledMap(deepest=deepest, off=behind, expected="")
    found = Found(solved=Solved.by_gap(values, off=off), readings=[])
    assert len(peeling._beside(best, step, found).inner) == expected
