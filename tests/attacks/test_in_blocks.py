"""What is computed some columns or some pictures at a time is the same as from the whole matrix, by plain products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seeds import seeded, shifted
from unveil.attacks.separation import decoder, weighted_lstsq
from unveil.attacks.separation.factorisation import FeatureEstimate, separate, with_certainty
from unveil.attacks.separation.heads.head import read_head
from unveil.attacks.separation.weighted_lstsq import CHUNK, gram_of, weighted_misfit
from unveil.clients.training import FedSGD
from unveil.core.protocols import EntryModel
from unveil.core.types import Block

N, OUT, FEATURES = 3, 7, 2 * CHUNK + 5
SHAPE = (3, 16, 16)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def test_the_products_of_pairs_stand_in_the_order_of_an_upper_triangle() -> None:
    known = drawn(4, 6)
    upper = torch.triu_indices(4, 4)
    torch.testing.assert_close(weighted_lstsq.pairwise(known), known[upper[0]] * known[upper[1]], atol=0, rtol=0)


def test_a_gram_matrix_is_that_of_the_matrix_in_float64() -> None:
    matrix = drawn(OUT, FEATURES).float()
    torch.testing.assert_close(gram_of(matrix), matrix.double() @ matrix.double().T)


def weighing(gradient: torch.Tensor, weight: torch.Tensor) -> EntryModel:
    def entry_model(expected: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient[block], weight[block]

    return entry_model


def test_covariance_and_precision_of_each_feature() -> None:
    errors, gradient = drawn(N, OUT), drawn(OUT, FEATURES, seed=1)
    weight = drawn(OUT, FEATURES, seed=2).abs()
    found = separate(errors, gradient, guess=drawn(N, FEATURES, seed=3), entry_model=weighing(gradient, weight))
    grams = torch.einsum("io,of,jo->fij", errors, weight, errors)
    ridge = 1e-4 * grams.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(N).double()
    off = errors.T @ found.features - gradient
    variance = float((weight * off.square()).sum() / weight.sum()) / (1 - N / OUT)
    expected = variance * torch.linalg.inv(grams + ridge + 1e-6 * grams.mean(0))
    torch.testing.assert_close(found.covariance, expected, atol=1e-9, rtol=1e-6)
    added = 0.09 * found.features.var() * torch.eye(N).double()
    torch.testing.assert_close(with_certainty(found, 0.3), torch.linalg.inv(found.covariance + added))


def test_a_covariance_is_not_changed_by_its_precision() -> None:
    eye = torch.eye(N).double().expand(FEATURES, N, N)
    covariance = eye.contiguous()
    estimate = FeatureEstimate(drawn(N, FEATURES), drawn(N, OUT), covariance, 0.0)
    precision = with_certainty(estimate, 1.0)
    torch.testing.assert_close(estimate.covariance, eye)
    torch.testing.assert_close(precision, eye / (1 + estimate.features.var()))


def test_a_misfit_of_more_columns_than_a_chunk_has() -> None:
    errors, features = drawn(N, OUT), drawn(N, FEATURES, seed=3)
    gradient = errors.T @ features + 0.1 * drawn(OUT, FEATURES, seed=1)
    found = weighted_misfit(errors, features, weighing(gradient, torch.ones_like(gradient)))
    best = torch.linalg.lstsq(errors.T, gradient).solution
    assert found == pytest.approx(float((errors.T @ best - gradient).square().mean()), rel=1e-5)


@pytest.mark.parametrize("samples", [decoder.SAMPLES, 200])
def test_a_decoder_is_the_same_a_picture_at_a_time(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(shifted(0))
        model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    head = read_head(model, SHAPE, training=FedSGD())
    monkeypatch.setattr(decoder, "SAMPLES", samples)
    whole = decoder.fit_decoder(head, generator=seeded())
    monkeypatch.setattr(decoder, "ENTRIES", 1)
    parts = decoder.fit_decoder(head, generator=seeded())
    assert float(whole.gram[-1, -1]) == 1.0  # the mean of the ones that stand beside the features
    torch.testing.assert_close(parts.gram, whole.gram, atol=0, rtol=0)
    torch.testing.assert_close(parts.cross, whole.cross, atol=0, rtol=0)
    features = whole.examples[:3]
    torch.testing.assert_close(parts(features, 0.01), whole(features, 0.01), atol=1e-5, rtol=0)
