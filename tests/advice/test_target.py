"""The target: what is written, and how many pictures it needs."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from unveil.advice.target import parse_target, pictures_needed, refuse_too_few, written
from unveil.core.errors import UsageError
from unveil.gate.conditions import Condition
from unveil.metrics import FACTS

COMPUTED = ["psnr", "ssim", "correlation", "reid_top1"]


def target(text: str) -> Condition:
    return parse_target(text, list(FACTS), COMPUTED)


@pytest.mark.parametrize(
    ("text", "value", "is_missed"),
    [
        ("psnr <= 14", 14.0, False),
        ("psnr <= 14", 14.1, True),
        ("psnr < 14", 14.0, True),
        ("reid_top1 <= 5%", 0.05, False),
        ("reid_top1<=0.05", 0.06, True),
        ("psnr.worst <= 14", 15.0, True),
    ],
)
def test_a_target_is_missed_where_more_comes_back(text: str, value: float, is_missed: bool) -> None:
    assert target(text).fails(value) is is_missed


def test_where_a_low_value_means_leakage_the_target_is_a_floor() -> None:
    found = parse_target("lpips >= 0.5", list(FACTS), ["lpips"])
    assert (found.fails(0.4), found.fails(0.5), found.fails(0.6)) == (True, False, False)
    assert written(found) == "lpips >= 0.500"


@pytest.mark.parametrize("text", ["psnr <= 14.0 dB", "reid_top1 <= 5.0%", "psnr.worst < 14.0 dB"])
def test_a_target_is_written_with_its_unit(text: str) -> None:
    assert written(target(text.removesuffix(" dB"))) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("psnr", "target 'psnr': expected METRIC <= LIMIT; write it as"),
        ("psnr >= 14", "target 'psnr >= 14': a high psnr means leakage"),
        ("pnsr <= 14", "unknown metric 'pnsr'; did you mean 'psnr'"),
        ("psnr.best <= 14", "expected psnr, psnr.mean or psnr.worst"),
        ("reid_top1 <= 500%", "reid_top1 is a share from 0 to 1"),
        ("lpips >= 0.5", "lpips is not computed; set lpips_weights under metrics"),
        ("reid_top5 <= 0.2", "reid_top5 is not computed; set decoys under metrics"),
    ],
)
def test_what_is_no_target_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target(text)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.1, 0.3])
def test_as_many_pictures_are_needed_as_wilsons_interval_says(limit: float) -> None:
    needed = pictures_needed(target(f"reid_top1 <= {limit}"))
    assert needed is not None
    highs = [binomtest(0, tries).proportion_ci(method="wilson").high for tries in (needed - 1, needed)]
    assert highs[0] > limit >= highs[1]


def test_too_few_pictures_are_said_with_how_many_would_do() -> None:
    with pytest.raises(
        UsageError, match=r"72 pictures are too few .* only known up to 5.1%; 73 would do: more clients"
    ):
        refuse_too_few(target("reid_top1 <= 5%"), 72)
    refuse_too_few(target("reid_top1 <= 5%"), 73)
    refuse_too_few(target("psnr.worst <= 14"), 1)
    with pytest.raises(UsageError, match="one picture gives no confidence interval; attack at least 2"):
        refuse_too_few(target("psnr <= 14"), 1)
    with pytest.raises(UsageError, match="no number of pictures shows that"):
        refuse_too_few(target("reid_top1 <= 0"), 1000)
