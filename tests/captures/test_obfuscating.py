"""Weights that are sent again after their change was obfuscated: by hand, without a framework."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seeds import seeded
from unveil import obfuscations
from unveil.captures.obfuscating import generator_for, obfuscated_weights
from unveil.core.errors import UsageError

BEFORE = {
    "weight": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "bn.running_mean": torch.tensor([0.0, 0.0]),
    "bn.num_batches_tracked": torch.tensor(3),
}
AFTER = {
    "bn.num_batches_tracked": torch.tensor(4),
    "weight": torch.tensor([1.5, 2.0, 2.0, 4.25]),
    "bn.running_mean": torch.tensor([0.5, 0.25]),
}


@pytest.mark.parametrize(
    ("buffers", "mean", "count"), [("sent", [0.5, 0.25], 4), ("kept", [0.0, 0.0], 3), ("obfuscated", [0.5, 0.0], 4)]
)
def test_half_of_the_change_is_sent_by_hand(buffers: str, mean: list[float], count: int) -> None:
    half = obfuscations.parse("topk:density=0.5")
    sent = obfuscated_weights(BEFORE, AFTER, half, buffers=buffers, generator=seeded(0))  # type: ignore[arg-type]
    assert list(sent) == list(AFTER)
    assert sent["weight"].tolist() == [1.5, 2.0, 2.0, 4.0]
    assert sent["bn.running_mean"].tolist() == mean
    assert (int(sent["bn.num_batches_tracked"]), sent["bn.num_batches_tracked"].dtype) == (count, torch.int64)


def test_numbered_arrays_need_the_order_only_where_there_are_buffers() -> None:
    none = obfuscations.parse("none")
    numbers = dict(zip("012", AFTER.values(), strict=True))
    before = dict(zip("012", (BEFORE[name] for name in AFTER), strict=True))
    with pytest.raises(UsageError, match="some are buffers; say which with order"):
        obfuscated_weights(before, numbers, none, buffers="sent", generator=seeded(0))
    sent = obfuscated_weights(before, numbers, none, buffers="kept", generator=seeded(0), order=list(AFTER))
    assert sent["2"].tolist() == [0.0, 0.0]
    plain = {"0": AFTER["weight"]}
    assert torch.equal(
        obfuscated_weights({"0": BEFORE["weight"]}, plain, none, buffers="sent", generator=seeded(0))["0"], plain["0"]
    )


def test_half_precision_keeps_its_type() -> None:
    before, after = ({"w": torch.tensor([v, 1.0]).half()} for v in (1.0, 1.5))
    sent = obfuscated_weights(before, after, obfuscations.parse("none"), buffers="sent", generator=seeded(0))
    assert sent["w"].dtype == torch.float16
    assert sent["w"].tolist() == [1.5, 1.0]


def test_what_is_not_finite_is_not_sent() -> None:
    with pytest.raises(UsageError, match="holds NaN or infinite values"):
        obfuscated_weights(
            {"w": torch.ones(2)},
            {"w": torch.tensor([1.0, float("nan")])},
            obfuscations.parse("clip:norm=1"),
            buffers="sent",
            generator=seeded(0),
        )


def test_each_client_and_round_draws_numbers_of_its_own() -> None:
    def draw(*given: Any) -> float:
        return float(torch.rand((), generator=generator_for(*given)))

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2), draw(0, "a", None)}) == 5
    assert draw(None, "a", 1) != draw(None, "a", 1)
