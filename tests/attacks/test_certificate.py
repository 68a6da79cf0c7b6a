"""The gap of singular values behind those of the batch's images."""

import pytest
import torch

from unveil.attacks.separation.certificate import certificate, gap_after


def gradient(values: list[float], *, outputs: int = 6, features: int = 5) -> torch.Tensor:
    """A matrix with these singular values, in the bases of two rotations."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(outputs, outputs, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=torch.float64))[0]
    diagonal = torch.zeros(outputs, features, dtype=torch.float64)
    diagonal[range(len(values)), range(len(values))] = torch.tensor(values, dtype=torch.float64)
    return left @ diagonal @ right


@pytest.mark.parametrize(("rank", "gap"), [(1, 0.5), (2, 1e-6), (3, 1.0)])
def test_the_gap_is_the_ratio_of_two_neighbours(rank: int, gap: float) -> None:
    assert gap_after(gradient([4.0, 2.0, 2e-6, 2e-6]), rank) == pytest.approx(gap, rel=1e-6)


def test_a_gradient_without_further_singular_values_has_none_behind() -> None:
    assert gap_after(gradient([4.0, 2.0, 1.0, 1.0, 1.0]), 5) == 0


@pytest.mark.parametrize(
    ("values", "images", "says"),
    [
        ([4.0, 2.0, 2e-6], 2, "behind singular value 2 of the gradient of fc.weight the next is 1e-06 of it"),
        ([4.0, 2.0, 1.5], 2, "have no gap behind number 2 (the next is 0.75 of it)"),
        ([4.0, 2.0, 1.5], 5, "has no more rows or columns than the batch has images"),
    ],
)
def test_the_sentence_says_what_the_gap_proves(values: list[float], images: int, says: str) -> None:
    assert says in certificate(gradient(values), "fc.weight", images)
