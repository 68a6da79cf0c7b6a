"""Several stages that change values: their variances add, and what they say together is lowest at the truth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seeds import seeded
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.quasi_likelihood import quasi_likelihood
from unveil.obfuscations.variances import Variance

ENTRIES = 20_000


def slope(values: Tensor, step: float, constant: float, received: Tensor) -> Tensor:
    """The derivative by hand: ``(x - y) / V(x)``."""
    fraction = (values.abs() / step) % 1 if step else torch.zeros_like(values)
    return (values - received) / (constant + step**2 * fraction * (1 - fraction))


@pytest.mark.parametrize("step", [0.0, 0.7])
def test_the_quasi_likelihood_is_the_integral_of_its_slope(step: float) -> None:
    x = 3 * torch.randn(50, generator=seeded(0), dtype=torch.float64)
    y = torch.randn(50, generator=seeded(1), dtype=torch.float64)
    place = x.clone().requires_grad_()
    value = quasi_likelihood(place, y, torch.tensor(step, dtype=torch.float64), 0.03)
    (given,) = torch.autograd.grad(value.sum(), place)
    torch.testing.assert_close(given, slope(x, step, 0.03, y))
    path = y + (x - y) * torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    by_hand = torch.trapezoid(slope(path, step, 0.03, y), path, dim=0)
    torch.testing.assert_close(value.detach(), by_hand, rtol=1e-5, atol=1e-5)
    assert float(value.detach().min()) > 0


def test_variances_add_and_the_coarser_of_two_roundings_keeps_its_levels() -> None:
    both = Variance(constant=1.0, step=0.6) + Variance(constant=2.0, step=torch.tensor([3.0, 5.0]))
    assert both.constant == pytest.approx(1 + 2 + 0.6**2 / 6)
    assert torch.equal(torch.as_tensor(both.step), torch.tensor([3.0, 5.0]))
    assert (Variance() + Variance(constant=4.0)).mean == 4.0


@pytest.mark.parametrize(
    "spec",
    [
        "qsgd:levels=16,norm=max",
        "qsgd:levels=4,norm=max",
        "ternary:clip=none",
        "gaussian:sigma=0.3",
        "gaussian:relative=0.4",
        "gaussian:snr_db=10",
        "laplace:sigma=0.3",
        "laplace:relative=0.4",
        "laplace:snr_db=-3",
    ],
)
def test_a_stages_variance_is_that_of_its_errors(spec: str) -> None:
    values = torch.rand(ENTRIES, generator=seeded(0)) * 2 - 1
    stage = parse(spec)
    received = stage(Update({"a": values}), generator=seeded(1))
    found = stage.variances(received)["a"]  # type: ignore[attr-defined]
    step = float(found.step)
    fraction = (values / step).abs() % 1 if step else torch.zeros(())
    expected = found.constant + float((step**2 * fraction * (1 - fraction)).mean())
    assert float((received.tensors["a"] - values).square().mean()) == pytest.approx(expected, rel=0.05)


TWO = (
    "qsgd:levels=16,norm=max+gaussian:sigma=0.02",
    "gaussian:sigma=0.02+qsgd:levels=16,norm=max",
    "qsgd:levels=16,norm=max+qsgd:levels=12,norm=max",
    "laplace:sigma=0.05+gaussian:sigma=0.05",
    "gaussian:sigma=0.05+nf4",
    "gaussian:sigma=0.05+fp4",
    "gaussian:sigma=0.002+blockwise8",
    "gaussian:sigma=0.05+uniform:bits=4",
    "uniform:bits=4+gaussian:sigma=0.05",
    "nf4+qsgd:levels=16,norm=max",
    "qsgd:levels=16,norm=max+nf4",
)


@pytest.mark.slow
@pytest.mark.parametrize("spec", TWO)
def test_what_two_stages_say_together_has_no_slope_at_the_truth(spec: str) -> None:
    """Many entries of one value are told to a hundredth of the largest one; rounded ones to the interval's width."""
    pipeline = parse(spec)
    for value in (0.0, 0.07, 0.31, -0.52):
        values = torch.full((ENTRIES,), value)
        values[::64] = 1.0  # the largest magnitude, which the levels divide, in every block
        misfit = pipeline.misfit(pipeline(Update({"a": values}), generator=seeded(2)))
        judged = [_mean_misfit(misfit, values, value + shift) for shift in SHIFTS]
        least = SHIFTS[min(range(len(SHIFTS)), key=judged.__getitem__)]
        room = 0.15 if any(name in spec for name in ("nf4", "fp4", "uniform")) else 0.011
        assert abs(least) <= room, (value, least)


SHIFTS = [0.01 * i for i in range(-25, 26)]


def _mean_misfit(misfit: object, values: Tensor, value: float) -> float:
    candidate = torch.full_like(values, value)
    candidate[::64] = 1.0
    return float(misfit({"a": candidate}))  # type: ignore[operator]


@pytest.mark.parametrize(
    "spec", ["gaussian:sigma=0.01+qsgd:levels=16,norm=max", "nf4+gaussian:sigma=0.02+qsgd:levels=16"]
)
def test_entry_models_of_several_stages_trust_entries_of_less_variance(spec: str) -> None:
    values = torch.rand(64, 100, generator=seeded(0)) * 2 - 1
    pipeline = parse(spec)
    received = pipeline(Update({"a": values}), generator=seeded(1))
    target, weight = pipeline.entry_models(received)["a"](values, (slice(None), slice(None)))  # type: ignore[attr-defined]
    errors = (target - values).square()
    sure, unsure = weight > weight.median(), weight <= weight.median()
    assert float(errors[sure].mean()) < 0.8 * float(errors[unsure].mean())
    assert 0 < float(weight.min()) <= float(weight.max()) <= 1
