"""Conditions as users write them, and every way to write them wrong."""

from __future__ import annotations

import pytest

from unveil.core.errors import UsageError
from unveil.core.metric import MetricFacts
from unveil.gate.conditions import Condition, parse, parse_all
from unveil.metrics import FACTS, remember

KNOWN = [*FACTS, "speed.of.light"]


@pytest.mark.parametrize(
    ("text", "metric", "aggregate", "limit", "is_strict", "written"),
    [
        ("reid_top1 > 0.1", "reid_top1", "mean", 0.1, True, "reid_top1 > 0.1"),
        ("reid_top1>10%", "reid_top1", "mean", 0.1, True, "reid_top1 > 0.1"),
        ("reid_top1.mean >= 12.5 %", "reid_top1", "mean", 0.125, False, "reid_top1 >= 0.125"),
        ("  psnr.worst > 20 ", "psnr", "worst", 20.0, True, "psnr.worst > 20"),
        ("psnr > -.5e1", "psnr", "mean", -5.0, True, "psnr > -5"),
        ("lpips < 0.3", "lpips", "mean", 0.3, True, "lpips < 0.3"),
        ("lpips.worst<=0.3", "lpips", "worst", 0.3, False, "lpips.worst <= 0.3"),
        ("reid_top1 >= 1", "reid_top1", "mean", 1.0, False, "reid_top1 >= 1"),
        ("reid_top1 > 0", "reid_top1", "mean", 0.0, True, "reid_top1 > 0"),
        ("speed.of.light > 3", "speed.of.light", "mean", 3.0, True, "speed.of.light > 3"),
        ("speed.of.light.worst > 3", "speed.of.light", "worst", 3.0, True, "speed.of.light.worst > 3"),
    ],
)
def test_a_condition_is_read_and_written(
    text: str, metric: str, aggregate: str, limit: float, is_strict: bool, written: str
) -> None:
    found = parse(text, KNOWN)
    assert (found.metric, found.aggregate, found.limit, found.is_strict) == (metric, aggregate, limit, is_strict)
    assert str(found) == written
    assert parse(str(found), KNOWN) == found
    assert found.rule == f"{metric}.{aggregate}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected METRIC > LIMIT; write it as 'reid_top1 > 0.1'"),
        ("psnr", "expected METRIC > LIMIT"),
        ("psnr >", "expected METRIC > LIMIT"),
        ("psnr > much", "expected METRIC > LIMIT"),
        ("psnr > nan", "expected METRIC > LIMIT"),
        ("psnr > inf", "expected METRIC > LIMIT"),
        ("psnr = 20", "expected METRIC > LIMIT"),
        ("psnr > 20 dB", "expected METRIC > LIMIT"),
        ("psnr > 20 and ssim > 0.3", "expected METRIC > LIMIT"),
        ("20 < psnr", "expected METRIC > LIMIT"),
        ("pnsr > 20", "unknown metric 'pnsr'; did you mean 'psnr'?"),
        ("pnsr.worst > 20", "unknown metric 'pnsr'; did you mean 'psnr'?"),
        ("psnr.max > 20", "expected psnr, psnr.mean or psnr.worst, got 'psnr.max'"),
        ("psnr > 20%", "psnr is no share of pictures; give the limit without %"),
        ("psnr < 20", "a high psnr means leakage, so a gate fails beyond a limit on that side; write 'psnr > 20'"),
        ("psnr.worst <= 20", "write 'psnr.worst > 20'"),
        ("lpips > 0.3", "a low lpips means leakage, so a gate fails beyond a limit on that side; write 'lpips < 0.3'"),
        ("reid_top1 < 5%", "write 'reid_top1 > 5%'"),
        ("reid_top1 > 10", "is a share from 0 to 1 and never beyond this limit; write 10% or 0.1"),
        ("reid_top1 > 1", "never beyond this limit"),
        ("reid_top1 >= 101%", "never beyond this limit"),
        ("reid_top1 > -0.1", "never beyond this limit"),
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text, KNOWN)
    assert str(refused.value).startswith(f"--fail-on {text!r}: ")
    assert message in str(refused.value)


def test_two_limits_on_one_value_are_refused() -> None:
    assert len(parse_all(["psnr > 20", "psnr.worst > 20", "ssim > 0.3"], KNOWN)) == 3
    with pytest.raises(UsageError, match=r"'psnr.mean > 19': psnr.mean has a limit already; keep the stricter one"):
        parse_all(["psnr > 20", "psnr.mean > 19"], KNOWN)


@pytest.mark.parametrize(
    ("text", "below", "at", "above"),
    [
        ("psnr > 20", False, False, True),
        ("psnr >= 20", False, True, True),
        ("lpips < 20", True, False, False),
        ("lpips <= 20", True, True, False),
    ],
)
def test_the_side_and_the_limit_itself(text: str, below: bool, at: bool, above: bool) -> None:
    condition = parse(text, KNOWN)
    assert [condition.fails(value) for value in (19.999, 20.0, 20.001)] == [below, at, above]


def test_a_metric_of_another_package_has_its_own_side() -> None:
    remember({"blur": MetricFacts(name="blur", leak="low")})
    assert parse("blur < 2", ["blur"]) == Condition(metric="blur", aggregate="mean", limit=2.0, is_strict=True)
    with pytest.raises(UsageError, match="write 'blur < 2'"):
        parse("blur > 2", ["blur"])


def test_a_long_condition_does_not_fill_the_screen() -> None:
    with pytest.raises(UsageError) as refused:
        parse("x" * 5000 + " > 1\x1b[31m", KNOWN)
    assert len(str(refused.value)) < 500
    assert "\x1b" not in str(refused.value)
