"""Tables of levels against their published definitions, and rounding to them block by block."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from generated import tried
from instances import first_of_each
from seeds import seeded
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.tables import DYNAMIC, FP4, NF4, table_penalty

TABLES = {"blockwise8": DYNAMIC, "nf4": NF4, "fp4": FP4}


def test_nf4_holds_quantiles_of_the_normal_distribution() -> None:
    """Evenly spaced shares from the published offset to one half, 8 steps upwards and 7 downwards, over the largest."""
    last = 1 - (1 / 32 + 1 / 30) / 2
    up = norm.ppf([last + (0.5 - last) * k / 8 for k in range(8)])
    down = norm.ppf([last + (0.5 - last) * k / 7 for k in range(7)])
    expected = sorted([*(up / up[0]), 0.0, *(-down / down[0])])
    torch.testing.assert_close(torch.tensor(NF4), torch.tensor(expected, dtype=torch.float32), rtol=0, atol=2e-6)


def test_fp4_holds_what_three_bits_spell() -> None:
    """Exponents 1 to 3 with a mantissa of one bit; exponent 0 spells zero and one sixteenth."""
    usual = [(1 + mantissa / 2) * 2.0**exponent for exponent in (1, 2, 3) for mantissa in (0, 1)]
    magnitudes = sorted(level / 12 for level in [0.0, 1 / 16, *usual])
    assert sorted({abs(level) for level in FP4}) == pytest.approx(magnitudes)
    assert sorted(FP4) == sorted(-level for level in FP4)


def test_the_dynamic_table_doubles_its_levels_with_each_decade() -> None:
    assert len(DYNAMIC) == len(set(DYNAMIC)) == 256
    assert list(DYNAMIC) == sorted(DYNAMIC)
    counts = [sum(10.0**-k / 10 < level < 10.0**-k for level in DYNAMIC) for k in range(7)]
    assert counts == [64, 32, 16, 8, 4, 2, 1]
    assert DYNAMIC[-1] == 1
    assert DYNAMIC[0] == -DYNAMIC[-2] == pytest.approx(-0.99296875)
    assert min(level for level in DYNAMIC if level > 0) == pytest.approx(5.5e-7)


@pytest.mark.parametrize("spec", first_of_each(TABLES))
@tried(40)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    scale=st.sampled_from([1.0, 1e20, 1e-23]),
    block=st.integers(1, 12),
)
def test_no_level_of_its_own_block_is_nearer(spec: str, values: list[float], scale: float, block: int) -> None:
    x = torch.tensor(values, dtype=torch.float32) * scale
    y = parse(f"{spec}:block={block}")(Update({"a": x}), generator=seeded(0)).tensors["a"]
    levels = torch.tensor(TABLES[spec], dtype=torch.float64)
    for exact, got in zip(x.double().split(block), y.double().split(block), strict=True):
        largest = exact.abs().max()
        best = (exact[:, None] - levels * largest).abs().amin(1)
        assert bool(((got - exact).abs() <= best + 1e-6 * largest + 1e-44).all())


@pytest.mark.parametrize("spec", TABLES)
def test_an_interval_costs_nothing_inside_and_more_the_farther_outside(spec: str) -> None:
    levels = torch.tensor(TABLES[spec], dtype=torch.float64)
    for (low, high), level in zip(itertools.pairwise((levels[1:] + levels[:-1]) / 2), levels[1:-1], strict=True):
        x = torch.stack([low, (low + high) / 2, high, high + (high - low), high + 2 * (high - low)]) * 3
        penalty = table_penalty(x, (3 * level).expand(5), torch.tensor(3.0).double().expand(5), levels=TABLES[spec])
        assert float(penalty[:3].max()) < 1e-12
        assert 0 < float(penalty[3]) < float(penalty[4])


def test_sparse_ternary_compression_is_top_k_and_signs_at_the_mean_magnitude() -> None:
    """Sattler et al. 2019, Algorithm 1, by hand."""
    x = torch.tensor([4.0, -2.0, 0.5, -0.1, 0.3, 3.0])
    received = parse("topk:density=0.5+sign:scale=true")(Update({"a": x}), generator=seeded(0))
    assert received.tensors["a"].tolist() == [3.0, -3.0, 0.0, 0.0, 0.0, 3.0]
    assert received.wire_bits == 3 + 6 + 32  # signs, a bitmap, the magnitude
