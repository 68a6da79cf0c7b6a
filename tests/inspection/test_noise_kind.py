"""Gaussian and Laplace noise behind a gradient with heavy tails, and quantisers that look like something else."""

import math

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.core.update import Update
from unveil.inspection.fingerprint.noise_kind import is_laplace, quiet
from unveil.inspection.fingerprint.rank import low_rank
from unveil.inspection.fingerprint.received import Received
from unveil.inspection.fingerprint.tables import from_table
from unveil.obfuscations import parse


def gradient(count: int) -> Tensor:
    """Entries with heavy tails, many of them small: a normal one times the exponential of another."""
    own = torch.randn(2, count, generator=seeded(3), dtype=torch.float64)
    return own[0] * own[1].mul(2).exp() / 10


def noise(kind: str, count: int) -> Tensor:
    """Noise of standard deviation 1."""
    if kind == "gaussian":
        return torch.randn(count, generator=seeded(4), dtype=torch.float64)
    halves = torch.rand(2, count, generator=seeded(4), dtype=torch.float64).clamp_min(1e-12).log()
    return (halves[0] - halves[1]) / math.sqrt(2)  # the difference of two exponential numbers


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("wrong", [0.97, 1.0, 1.03])
def test_the_kind_of_noise_is_told_behind_a_gradient_with_heavy_tails(kind: str, wrong: float) -> None:
    values = gradient(100_000) + noise(kind, 100_000)
    assert float((values - values.mean()).pow(4).mean() / values.var() ** 2) > 20  # kurtosis says nothing of the noise
    assert is_laplace([(values, wrong)]) is (kind == "laplace")


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_noise_that_is_small_beside_the_gradient_is_not_told(kind: str) -> None:
    assert (
        is_laplace([(1000 * torch.randn(50_000, generator=seeded(), dtype=torch.float64) + noise(kind, 50_000), 1.0)])
        is None
    )


def test_a_few_entries_say_nothing() -> None:
    assert is_laplace([(noise("laplace", 1000), 1.0)]) is None
    assert is_laplace([]) is None


def test_quiet_rows_are_those_of_the_noise_alone() -> None:
    matrix = torch.stack([noise("gaussian", 500), 3 * noise("gaussian", 500)])
    ((entries, sigma),) = quiet([(matrix, 1.0)])
    assert sigma == 1.0
    assert torch.equal(entries, matrix[0])
    assert quiet([(matrix + 10, 1.0)]) == []


def sent(spec: str, **tensors: Tensor) -> Received:
    return Received.of(Update(parse(spec)(Update(tensors), generator=seeded(7)).tensors))


def test_a_coarse_quantiser_that_leaves_mostly_zeros_is_no_low_rank() -> None:
    thin = torch.randn(256, 108, generator=seeded(1)) @ torch.randn(108, 512, generator=seeded(2))
    kernel = torch.randn(256, 108, generator=seeded(5)) @ torch.randn(108, 2304, generator=seeded(6))
    assert low_rank(Received.of(Update({"a": thin, "b": kernel.reshape(256, 256, 3, 3)}))) is None
    few = {"a": thin[:, :8] @ thin[:8], "b": (kernel[:, :8] @ kernel[:8]).reshape(256, 256, 3, 3)}
    found = low_rank(Received.of(Update(few)))
    assert found is not None
    assert found.spec == "powersgd:rank=8"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("qsgd:levels=16,bucket=512", None),
        ("qsgd:levels=3,norm=max,bucket=4096", None),
        ("fp4:block=64", "fp4:block=64"),
    ],
)
def test_few_levels_of_qsgd_are_not_those_of_fp4(spec: str, found: str | None) -> None:
    finding = from_table(sent(spec, a=torch.randn(256, 256, generator=seeded(0))))
    assert (finding and finding.spec) == found
