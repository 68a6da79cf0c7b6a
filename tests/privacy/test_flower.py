"""Flower's LocalDpMod: claimed against tight."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from unveil import obfuscations
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.privacy.flower import local_dp
from unveil.privacy.statements import privacy_statements
from unveil.privacy.terms import PrivacyTerms
from unveil.report.guarantees import epsilon

PAGE = Path(__file__).resolve().parents[2] / "docs" / "privacy.md"


@pytest.mark.parametrize(("claimed", "holds"), [(10, 10.39), (50, 96.43)])
def test_the_classical_formula_claims_too_little_above_one(claimed: float, holds: float) -> None:
    found = local_dp(clipping_norm=2.0, sensitivity=2.0, epsilon=claimed, delta=1e-5)
    assert found.at_sensitivity == pytest.approx(holds, abs=0.005)
    assert found.replaced > found.at_sensitivity > found.claimed
    assert not found.is_theorem


def test_where_the_formula_is_a_theorem_it_holds() -> None:
    found = local_dp(clipping_norm=1.0, sensitivity=2.0, epsilon=1.0, delta=1e-5)
    assert found.is_theorem
    assert found.replaced == found.at_sensitivity < 1.0


def test_its_spec_is_an_obfuscation_with_the_same_epsilon() -> None:
    found = local_dp(clipping_norm=0.3, sensitivity=0.3, epsilon=8.0, delta=1e-6)
    (statement,) = privacy_statements(FedSGD(), obfuscations.parse(found.spec), 4, PrivacyTerms(delta=1e-6))
    assert statement.epsilon == pytest.approx(found.replaced, rel=1e-9)
    assert statement.noise == pytest.approx(found.sigma)
    zero_out = PrivacyTerms(delta=1e-6, adjacency="zero-out")
    (other,) = privacy_statements(FedSGD(), obfuscations.parse(found.spec), 4, zero_out)
    assert other.epsilon == pytest.approx(found.at_sensitivity, rel=1e-9)


def test_the_noise_is_that_of_the_mod_itself() -> None:
    pytest.importorskip("flwr", reason="the extra unveil[flower] is not installed")
    import numpy as np
    from flwr.supercore.differential_privacy import add_gaussian_noise_inplace

    found = local_dp(clipping_norm=1.0, sensitivity=1.0, epsilon=8.0, delta=1e-5)
    # As flwr/clientapp/mod/localdp_mod.py of Flower 1.42 has it.
    assert found.sigma == 1.0 * np.sqrt(2 * np.log(1.25 / 1e-5)) / 8.0
    values = [np.zeros(100_000)]
    add_gaussian_noise_inplace(values, found.sigma)
    assert float(torch.from_numpy(values[0]).std()) == pytest.approx(found.sigma, rel=0.02)


def test_the_table_of_the_page_is_computed() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 6
    for claimed, as_given, replaced in rows:
        found = local_dp(clipping_norm=1.0, sensitivity=1.0, epsilon=float(claimed), delta=1e-5)
        assert (epsilon(found.at_sensitivity), epsilon(found.replaced)) == (as_given, replaced)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clipping_norm", 0.0, "LocalDpMod: expected clipping_norm > 0"),
        ("sensitivity", -1.0, "LocalDpMod: expected sensitivity > 0"),
        ("epsilon", math.nan, "LocalDpMod: expected epsilon > 0"),
        ("delta", 1.0, "expected 0 < delta < 1"),
    ],
)
def test_settings_out_of_range_are_one_sentence(name: str, value: float, message: str) -> None:
    given = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5, name: value}
    with pytest.raises(UsageError, match=message):
        local_dp(**given)
