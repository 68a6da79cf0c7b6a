"""Candidates: what is written, and the bisection of a range."""

from __future__ import annotations

import math

import pytest

from unveil.advice.candidates import Fixed, Range, Search, most_settings, parse_candidates, search
from unveil.core.errors import UsageError


def searched(text: str, threshold: float, steps: int, *, key: str) -> tuple[Search, list[str]]:
    """Search a range in which a setting is enough from a threshold on; the search's end, and all it tried in order."""
    (one,) = parse_candidates([text])
    assert isinstance(one, Range)
    sign = 1 if one.strong > one.weak else -1
    met: dict[str, bool | None] = {}
    while (found := search(one, met, steps)).setting is not None:
        value = float(found.setting.partition(f"{key}=")[2].partition(",")[0].partition("+")[0])
        met[found.setting] = sign * value >= sign * threshold
    return found, list(met)


def test_the_weakest_setting_is_found_by_halving_the_logarithm() -> None:
    found, tried = searched("gaussian:relative=0.1..10", 2.0, 3, key="relative")
    # sqrt(0.1 * 10) = 1 fails, sqrt(1 * 10) = 3.16 is enough, sqrt(1 * 3.16) = 1.78 fails
    values = ["10", "0.1", "1", "3.16", "1.78"]
    assert tried == [f"gaussian:relative={value}" for value in values]
    assert found == Search(enough="gaussian:relative=3.16", fails="gaussian:relative=1.78")


@pytest.mark.parametrize("threshold", [0.11, 0.5, 1.0, 4.0, 9.9])
def test_what_was_found_and_what_fails_stand_around_the_threshold(threshold: float) -> None:
    found, _ = searched("gaussian:relative=0.1..10", threshold, 8, key="relative")
    enough, fails = (float(str(spec).partition("=")[2]) for spec in (found.enough, found.fails))
    assert fails < threshold <= enough
    assert math.log(enough / fails) < math.log(100) / 2**7.8  # rounded to three digits


def test_a_smaller_number_may_be_the_stronger_end() -> None:
    found, tried = searched("topk:density=0.5..0.005", 0.05, 1, key="density")
    assert tried == ["topk:density=0.005", "topk:density=0.5", "topk:density=0.05"]
    assert found == Search(enough="topk:density=0.05", fails="topk:density=0.5")


def test_whole_numbers_stay_whole_and_the_search_ends_between_neighbours() -> None:
    found, tried = searched("qsgd:levels=16..2,norm=max", 5, 9, key="levels")
    assert all("." not in spec for spec in tried)
    assert found == Search(enough="qsgd:levels=5,norm=max", fails="qsgd:levels=6,norm=max")


def test_a_range_may_stand_in_a_pipeline() -> None:
    found, tried = searched("topk:density=0.05+gaussian:relative=0.1..10", 5, 0, key="relative")
    assert tried[0] == "topk:density=0.05+gaussian:relative=10"
    assert found.enough == tried[0]


@pytest.mark.parametrize(
    ("threshold", "found"),
    [
        (100, Search(fails="gaussian:relative=10")),  # not even the strong end
        (0.01, Search(enough="gaussian:relative=0.1")),  # the weak end already
    ],
)
def test_the_ends_decide_without_a_search(threshold: float, found: Search) -> None:
    assert searched("gaussian:relative=0.1..10", threshold, 3, key="relative")[0] == found


def test_where_the_strong_end_cannot_be_judged_weaker_settings_are_tried() -> None:
    (one,) = parse_candidates(["gaussian:relative=0.1..10"])
    ends: dict[str, bool | None] = {"gaussian:relative=10": None, "gaussian:relative=0.1": False}
    assert search(one, ends, 1) == Search(setting="gaussian:relative=1", fails="gaussian:relative=0.1")
    assert search(one, {**ends, "gaussian:relative=1": True}, 1) == Search(
        enough="gaussian:relative=1", fails="gaussian:relative=0.1"
    )
    assert search(one, {**ends, "gaussian:relative=1": None}, 1) == Search(fails="gaussian:relative=0.1")


def test_one_setting_is_tried_once() -> None:
    one = Fixed(text="fp16")
    assert search(one, {}, 3) == Search(setting="fp16")
    assert search(one, {"fp16": True}, 3) == Search(enough="fp16")
    assert search(one, {"fp16": False}, 3) == Search()
    assert (most_settings(one, 3), most_settings(parse_candidates(["topk:density=0.5..0.1"])[0], 3)) == (1, 5)


def test_the_baseline_is_no_candidate() -> None:
    assert parse_candidates(["none", "fp16"]) == [Fixed(text="fp16")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["none"], "expected at least one obfuscation beside none"),
        (["fp16", "fp16"], "'fp16' is given twice"),
        (["gaussian:relative=1..1"], "expected two different numbers above 0; write the weaker end first"),
        (["gaussian:relative=0..1"], "expected two different numbers above 0"),
        (["gaussian:relative=a..b"], "expected two numbers around"),
        (["gaussian:relative=1..2,sigma=1..2"], "expected one range KEY=WEAK..STRONG"),
        (["gaussian:1..2"], "expected one range KEY=WEAK..STRONG"),
        (["qsgd:levels=2.5..16,norm=max"], "does not fit"),
        (["topk:density=0.5..2"], "density"),
        (["topk:densty=0.5..0.1"], "did you mean 'density'"),
    ],
)
def test_what_is_no_candidate_is_said(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_candidates(texts)
