"""Clamping, the percentile and the sparse vector technique: what they send, against NumPy and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generated import tried
from seeds import seeded, shifted
from unveil.core.errors import UsageError
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.clamp import Clamp
from unveil.obfuscations.percentile import Percentile
from unveil.obfuscations.svt import SVT, NoisyChoice

VALUES = torch.tensor([[3.0, -0.5], [0.2, -4.0]])


def test_clamping_holds_magnitudes_at_the_limit() -> None:
    sent = Clamp(limit=1.0)(Update({"a": VALUES}), generator=seeded(0))
    assert sent.tensors["a"].tolist() == [[1.0, -0.5], [pytest.approx(0.2), -1.0]]


def test_what_was_clamped_may_have_been_any_larger_value() -> None:
    received = Clamp(limit=1.0)(Update({"a": VALUES}), generator=seeded(0))
    misfit = Clamp(limit=1.0).misfit(received)
    assert float(misfit({"a": VALUES})) == 0
    assert float(misfit({"a": VALUES * torch.tensor([[9.0, 1.0], [1.0, 9.0]])})) == 0
    unit = float(received.tensors["a"].square().mean())
    for place, value, off in (((0, 0), 0.4, 0.6), ((0, 0), -2.0, 3.0), ((1, 1), 2.0, 3.0), ((0, 1), 0.5, 1.0)):
        other = VALUES.clone()
        other[place] = value
        assert float(misfit({"a": other})) == pytest.approx(off**2 / unit / 4)
    target, weight = Clamp(limit=1.0).entry_models(received)["a"](VALUES * 0.5, (slice(None), slice(None)))
    assert target.tolist() == [[1.5, -0.5], [pytest.approx(0.2), -2.0]]
    assert bool((weight == 1).all())


@tried(60)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60),
    percent=st.integers(0, 100) | st.floats(0, 100),
)
def test_the_percentile_is_numpys(values: list[float], percent: float) -> None:
    flat = torch.tensor(values, dtype=torch.float64)
    update = Update({"a": flat[:1], "b": flat[1:].reshape(1, -1)})
    sent = Percentile(percent=percent)(update, generator=seeded(0))
    cutoff = np.percentile(np.abs(np.array(values)), percent)
    got = torch.cat([tensor.reshape(-1) for tensor in sent.tensors.values()])
    clear = (flat.abs() - cutoff).abs() > 1e-9 * (1 + abs(cutoff))
    assert torch.equal(got[clear], torch.where(flat.abs() >= cutoff, flat, 0.0)[clear])


def test_all_of_several_equal_entries_are_sent() -> None:
    sent = Percentile(percent=90)(Update({"a": torch.ones(10)}), generator=seeded(0))
    assert sent.count_sent("a") == 10
    assert Percentile(percent=100)(Update({"a": torch.arange(10.0)}), generator=seeded(0)).count_sent("a") == 1


def test_noise_and_number_of_what_the_sparse_vector_technique_sends() -> None:
    """With replacement from n accepted entries, all but ``n (1 - 1/n)^c`` of them are drawn in c draws."""
    n, tensors = 20_000, {"a": torch.full((20_000,), 5.0)}
    once = SVT(fraction=0.5, noise_var=4.0, gamma=1.0, replace=False)(Update(tensors), generator=seeded(0))
    assert once.count_sent("a") == n // 2
    noise = once.tensors["a"][once.masks()["a"]].double() - 1.0
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.abs().mean()) == pytest.approx(2 * 1.0 / 4.0, rel=0.05)
    again = SVT(fraction=1.0, noise_var=4.0, gamma=1.0)(Update(tensors), generator=seeded(1))
    assert again.count_sent("a") == pytest.approx(n * (1 - (1 - 1 / n) ** n), rel=0.02)


def test_with_a_large_budget_the_largest_entries_are_chosen() -> None:
    tensors = {"a": torch.linspace(-1, 1, 100)}
    sent = SVT(fraction=0.2, epsilon=1e9, tau=0.7, gamma=1.0, replace=False)(Update(tensors), generator=seeded(0))
    assert set(tensors["a"][sent.masks()["a"]].abs().ge(0.7).tolist()) == {True}


def by_a_loop(sizes: np.ndarray, settings: SVT, drawn: int, draw: np.random.Generator) -> np.ndarray:
    """The entries that are sent, asked again and again as Lyu, Su and Li have it, until enough are accepted."""
    for_threshold = settings.epsilon / (1 + (2 * drawn) ** (2 / 3))
    threshold = settings.tau + draw.laplace(scale=settings.gamma / for_threshold)
    scale = 2 * drawn * settings.gamma / (settings.epsilon - for_threshold)
    accepted = np.zeros(len(sizes), dtype=bool)
    while accepted.sum() < drawn:
        accepted |= ~accepted & (sizes + draw.laplace(scale=scale, size=len(sizes)) >= threshold)
    return draw.choice(np.flatnonzero(accepted), drawn, replace=settings.replace)


def choice_of(settings: SVT) -> NoisyChoice:
    (choice,) = (part for part in settings.parts if isinstance(part, NoisyChoice))
    return choice


@pytest.mark.slow
@pytest.mark.parametrize("replace", [True, False])
def test_entries_are_chosen_as_often_as_by_asking_again_and_again(replace: bool) -> None:
    sizes, draws, drawn = torch.tensor([0.0, 0.0, 0.3, 0.6, 1.0, 1.0, 1.0, 0.1]), 800, 3
    settings = SVT(fraction=0.375, epsilon=20.0, tau=0.8, gamma=1.0, replace=replace)
    choice, loops = choice_of(settings), np.random.default_rng(shifted(0))
    generator = seeded(0)
    ours, theirs = np.zeros(8), np.zeros(8)
    for _ in range(draws):
        ours += choice(Update({"a": sizes}), generator=generator).masks()["a"].numpy()
        theirs[np.unique(by_a_loop(sizes.numpy(), settings, drawn, loops))] += 1
    assert ours[4] > 1.5 * ours[0]
    error = np.sqrt((ours + theirs) / 2 * (1 - (ours + theirs) / 2 / draws) * 2)
    assert float(np.abs((ours - theirs) / error).max()) < 4.5


def test_what_the_technique_did_not_send_says_nothing() -> None:
    obfuscation = parse("svt:fraction=0.5,noise_var=100,gamma=1")
    received = obfuscation(Update({"a": VALUES}), generator=seeded(3))
    misfit, mask = obfuscation.misfit(received), received.masks()["a"]
    assert 0 < int(mask.sum()) < 4
    assert float(misfit({"a": torch.where(mask, VALUES, 77.0)})) == float(misfit({"a": VALUES}))
    off = (VALUES.clamp(-1, 1) - received.tensors["a"]).abs()[mask].mean() / (2 / 100)
    assert float(misfit({"a": VALUES})) == pytest.approx(float(off), rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clamp:limit=0", "expected limit > 0"),
        ("percentile:percent=101", "0 <= percent <= 100"),
        ("percentile:percent=-1", "90 sends the largest 10 %"),
        ("svt:fraction=0", "0 < fraction <= 1"),
        ("svt:gamma=0", "expected gamma > 0"),
        ("svt:noise_var=0", "expected noise_var > 0"),
        ("svt:tau=-1", "expected tau >= 0"),
        ("svt:epsilon=1,epsilon_query=1", "leave one of them out"),
        ("svt:epsilon=1,epsilon_query=0.5,epsilon_threshold=0.4", "to be 1 together, which is epsilon"),
        ("svt:epsilon_query=0", "expected each part of epsilon > 0"),
    ],
)
def test_bad_settings_are_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(spec)


def test_parts_of_the_budget_are_as_given() -> None:
    assert SVT(epsilon=1.0, epsilon_query=0.75).budgets(8) == (0.25, 0.75)
    assert SVT(epsilon=1.0, epsilon_threshold=0.25).budgets(8) == (0.25, 0.75)
    threshold, query = SVT(epsilon=1.0).budgets(4)
    assert query / threshold == pytest.approx(4.0)  # (2 * 4)^(2/3)
    assert math.isclose(threshold + query, 1.0)
