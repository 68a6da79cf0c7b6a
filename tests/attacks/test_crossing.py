"""Gates behind a depthwise convolution by a linear program, and features of certain images by their errors' zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seeds import seeded
from unveil.attacks.dead_leaves import dead_leaves
from unveil.attacks.separation.certain_images import certain_features
from unveil.attacks.separation.heads.head import PooledError, read_head
from unveil.attacks.separation.mixing_matrix import exact_features
from unveil.attacks.separation.peeling.depthwise import gates_in
from unveil.attacks.separation.peeling.slopes import open_gates
from unveil.attacks.separation.peeling.solving import Solved
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch

SHAPE = (3, 16, 16)


def test_gates_are_the_corner_of_a_polytope() -> None:
    places, out = 12, 90
    gates = (torch.rand((places, out), generator=seeded(0)) < 0.4).double()
    opened = torch.randn((places, out), generator=seeded(1)).double()
    space = torch.linalg.svd((gates * opened).T, full_matrices=False)[0]
    for row, expected in zip(opened, gates, strict=True):
        assert torch.equal(gates_in(space, row), expected)


def test_a_space_without_such_a_corner_has_no_open_gates() -> None:
    space = torch.linalg.qr(torch.randn((60, 4), generator=seeded(0)).double())[0]
    opened = torch.randn(60, generator=seeded(1)).double()
    assert not bool(gates_in(space, opened).any())


def test_gates_close_below_and_above() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 5.75, 5.999, 6.0, 7.0]).reshape(1, 1, 1, 7).double()
    expected = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 7).double()
    assert torch.equal(open_gates(values, (0.0, 6.0)), expected)
    assert bool((open_gates(values, ()) == 1).all())
    solved = Solved(values=values, deviation=torch.full_like(values, 0.0025))
    assert solved.rectified((0.0, 6.0)).flatten().tolist() == [0.0, 0.0, 0.5, 5.75, 6.0, 6.0, 6.0]
    assert solved.rectified(()) is values
    assert solved.is_doubtful((0.0, 6.0)).flatten().tolist() == [False, True, False, True, True, True, False]
    assert not bool(solved.is_doubtful(()).any())


@pytest.mark.slow
@pytest.mark.parametrize("size", [2.0, 12.0])
def test_features_of_certain_images_are_exact(size: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        net = nn.Sequential(body, nn.Linear(24, 10)).double()
    batch = Batch(dead_leaves(2, SHAPE, generator=seeded(3)).double(), torch.tensor([0, 0]))
    with torch.no_grad():
        weight = net[1].weight.mul_(8)
        features = body(batch.images)
        # Each image is classified rightly, the surer the larger this is.
        batch = Batch(batch.images, torch.tensor([4, 7]))
        for label, row in zip((4, 7), torch.linalg.pinv(features).T, strict=True):
            weight[label] += size * row
    with pytest.raises(PooledError) as pooled:
        read_head(net, SHAPE, training=FedSGD())
    head = pooled.value.head
    gradient = FedSGD()(net, batch)[head.weights[0]]
    near = certain_features(head, gradient, batch.labels)
    assert float((near - features).norm() / features.norm()) < (0.3 if size < 10 else 0.03)
    found = exact_features(
        head, [gradient], batch.labels, kind=torch.float64, tuning=FactorisationTuning(), generator=seeded(0)
    )
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-7)
