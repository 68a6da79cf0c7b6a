"""Each kind of evidence on tensors whose answer is known."""

import math

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.core.errors import UsageError
from unveil.core.update import Update
from unveil.inspection.fingerprint.clip import clipped
from unveil.inspection.fingerprint.columns import pruned_columns
from unveil.inspection.fingerprint.grid import find_grid
from unveil.inspection.fingerprint.half import half_precision
from unveil.inspection.fingerprint.marchenko_pastur import noise_tail, quantiles
from unveil.inspection.fingerprint.rank import low_rank, rank_of
from unveil.inspection.fingerprint.received import FLOAT32, Received
from unveil.inspection.fingerprint.sparsity import plain_number, sparsified
from unveil.inspection.fingerprint.tables import from_table
from unveil.inspection.fingerprint.thinning import thinned
from unveil.obfuscations import parse


def received(**tensors: Tensor) -> Received:
    return Received.of(Update(tensors))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def sent(spec: str, **tensors: Tensor) -> Received:
    return Received.of(Update(parse(spec)(Update(tensors), generator=seeded(7)).tensors))


@pytest.mark.parametrize(("step", "top"), [(0.003, 7), (1e-7, 127), (2.5, 1000)])
def test_steps_and_the_largest_level_are_found(step: float, top: int) -> None:
    levels = torch.cat([torch.randint(-top, top + 1, (500,), generator=seeded()), torch.tensor([top])])
    grid = find_grid((levels * torch.tensor(step)).double(), relative=FLOAT32)
    assert grid is not None
    assert grid.step == pytest.approx(step, rel=1e-5)
    assert (grid.top, grid.origin) == (top, 0.0)


def test_levels_between_the_extremes_have_the_smallest_value_as_their_origin() -> None:
    low, step = -1.2345, 0.1
    grid = find_grid((low + step * torch.arange(16)).repeat(5).double(), relative=FLOAT32)
    assert grid is not None
    assert grid.step == pytest.approx(step, rel=1e-4)
    assert (grid.top, grid.origin) == (15, pytest.approx(low))


@pytest.mark.parametrize("count", [3, 12, 5000])
def test_values_that_nobody_rounded_have_no_levels(count: int) -> None:
    assert find_grid(normal(count).double(), relative=FLOAT32) is None


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_half_precision_is_seen_and_full_precision_is_not(name: str) -> None:
    found = half_precision(sent(name, w=normal(40, 30)))
    assert found is not None
    assert found.finding.spec == name
    assert half_precision(received(w=normal(40, 30))) is None
    assert half_precision(received(w=normal(40, 30).sign())) is None, "signs are values of every type"


@pytest.mark.parametrize("norm", [0.5, 12.0, 0.0371])
def test_a_norm_of_few_digits_is_clipping(norm: float) -> None:
    values = normal(200, 50)
    found = clipped(sent(f"clip:norm={norm}", w=values))
    assert found is not None
    assert found.spec == f"clip:norm={norm:g}"
    assert clipped(received(w=values * (norm * 1.0004567 / values.norm()))) is None


def test_ranks_of_products() -> None:
    assert rank_of((normal(64, 3) @ normal(3, 90, seed=1)).double()) == 3
    assert rank_of(normal(64, 90).double()) is None
    assert rank_of(torch.zeros(4, 4).double()) == 0


def test_a_rank_that_kernels_share_is_that_of_powersgd() -> None:
    kernels = {"a": normal(16, 8, 3, 3), "b": normal(32, 16, 3, 3, seed=1), "c": normal(10, 64, seed=2)}
    found = low_rank(sent("powersgd:rank=2", **kernels))
    assert found is not None
    assert found.spec == "powersgd:rank=2"
    assert low_rank(received(**kernels)) is None


def test_quantiles_of_singular_values_have_the_energy_of_the_matrix() -> None:
    # The squares of all singular values sum to the squares of all entries, rows x columns of variance 1.
    for rows, columns in ((30, 30), (30, 200), (100, 1000)):
        assert float(quantiles(rows, columns).square().sum()) == pytest.approx(rows * columns, rel=0.02)


@pytest.mark.parametrize("rank", [1, 8])
def test_noise_behind_low_rank(rank: int) -> None:
    signal = (10 * normal(64, rank) @ normal(rank, 300, seed=1)).double()
    tail = noise_tail(signal + 0.25 * normal(64, 300, seed=2).double())
    assert tail is not None
    assert tail.sigma == pytest.approx(0.25, rel=0.05)
    exact = noise_tail(signal)
    assert exact is not None
    assert exact.sigma == 0.0


@pytest.mark.parametrize("spec", ["nf4:block=32", "fp4:block=64", "blockwise8:block=256"])
def test_tables_and_their_blocks(spec: str) -> None:
    found = from_table(sent(spec, w=normal(64, 100)))
    assert found is not None
    assert found.spec == spec
    assert from_table(received(w=normal(64, 100))) is None


@pytest.mark.parametrize("spec", ["topk:density=0.05", "randomk:density=0.1", "topk:density=0.02,scope=update"])
def test_sparsifiers(spec: str) -> None:
    tensors = {"a": normal(64, 100), "b": 3 * normal(32, 8, 3, 3, seed=1), "c": 2 * normal(10, 200, seed=2)}
    found = sparsified(sent(spec, **tensors))
    assert found is not None
    assert found.spec == spec
    assert sparsified(received(**tensors)) is None


def test_a_chance_to_be_sent_is_read_beside_zeros_of_the_network() -> None:
    dead = torch.ones(128, 1)
    dead[::4] = 0.0  # every fourth output is not in use
    tensors = {name: dead * normal(128, 300, seed=seed) for seed, name in enumerate("ab")}
    mask = {n: torch.rand(t.shape, generator=seeded(9 + i)) < 0.1 for i, (n, t) in enumerate(tensors.items())}
    rate = thinned(received(**{n: t * mask[n] for n, t in tensors.items()}))
    assert rate is not None
    assert rate.chance == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("low", "high", "number"), [(0.0495, 0.0502, 0.05), (0.031, 0.0349, 0.034), (0.1234, 0.12345, 0.12345)]
)
def test_the_number_of_fewest_digits(low: float, high: float, number: float) -> None:
    found = plain_number(low, high)
    assert low < found <= high
    assert found == pytest.approx(number, abs=1e-9)


def test_columns_are_pruned_only_where_their_features_are_in_use() -> None:
    before, head = normal(40, 30), normal(5, 40, seed=1)
    before[:6] = 0.0  # six features are never in use: their columns are empty anyway
    head[:, :6] = 0.0
    assert pruned_columns(received(a=before, b=head)) is None
    head[:, 10:20] = 0.0
    found = pruned_columns(received(a=before, b=head))
    assert found is not None
    assert found.spec == "soteria:pruning_rate=0.25"


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(UsageError, match="holds no values; give one with at least one tensor"):
        received(w=torch.zeros(0))
    with pytest.raises(UsageError, match="NaN or infinite"):
        received(w=torch.tensor([math.nan]))
