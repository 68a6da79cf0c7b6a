"""A thin matrix must be indistinguishable from the matrix it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.core import factored as thin
from unveil.core.factored import Factored, dense, entrywise, inner, square_distance, square_norm


def factors(seed: int = 0, rows: int = 5, out: int = 12, inside: int = 30) -> tuple[Tensor, Tensor]:
    g = seeded(seed)
    left = torch.randn((rows, out), generator=g, dtype=torch.float64, requires_grad=True)
    right = torch.randn((rows, inside), generator=g, dtype=torch.float64, requires_grad=True)
    return left, right


def penalty(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).abs() ** 1.5


def weighted(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return weight * (x - y) ** 4


@pytest.mark.parametrize("chunk", [1, 64, 1 << 20])
@pytest.mark.parametrize("extra", [False, True])
def test_entrywise_equals_the_plain_sum_and_its_slopes(
    chunk: int, extra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thin, "CHUNK", chunk)
    left, right = factors()
    received = torch.randn(12, 30, dtype=torch.float64)
    more = (torch.rand(12, 30, dtype=torch.float64),) if extra else ()
    judge = weighted if extra else penalty
    plain = judge(left.T @ right, received, *more).sum()
    value = entrywise(judge, Factored(((1.0, left, right),)), received, *more)
    torch.testing.assert_close(value, plain)
    slopes = torch.autograd.grad(2 * value, (left, right))
    torch.testing.assert_close(slopes, torch.autograd.grad(2 * plain, (left, right)))


def test_gram_shortcuts_equal_the_plain_matrix() -> None:
    left, right = factors()
    matrix = Factored(((0.5, left, right), (2.0, left * 2, right + 1)))
    plain = dense(matrix)
    torch.testing.assert_close(plain, 0.5 * left.T @ right + 2 * (left * 2).T @ (right + 1))
    received = torch.randn(12, 30, dtype=torch.float64)
    torch.testing.assert_close(inner(matrix, received), (plain * received).sum())
    torch.testing.assert_close(square_norm(matrix), plain.square().sum())
    torch.testing.assert_close(
        square_distance(matrix, received, received.square().sum()), (plain - received).square().sum()
    )


def test_sums_merge_terms_that_share_their_factors() -> None:
    left, right = factors()
    one = Factored(((1.0, left, right),))
    other = Factored(((1.0, *factors(1)),))
    total = (one * 3 + other) + one
    assert len(total.terms) == 2
    torch.testing.assert_close(dense(total), dense(one) * 4 + dense(other))


def test_times_is_what_the_matrix_adds_to_a_layers_output() -> None:
    left, right = factors()
    matrix = Factored(((1.5, left, right),))
    features = torch.randn(3, 30, dtype=torch.float64)
    torch.testing.assert_close(matrix.times(features), features @ dense(matrix).T)
    assert matrix.shape == dense(matrix).shape
