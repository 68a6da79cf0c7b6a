"""The benchmark of the constants: its cases, the values that are tried, and its tables on results made by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from benchmarks.tuning import (
    FACTORS,
    FIELDS,
    KINDS,
    LINES,
    Case,
    Line,
    cases,
    changes,
    letters,
    levels_table,
    scaled,
    table,
    whole,
)


def test_the_cases_name_every_field_and_change_it_by_every_factor_that_its_class_takes() -> None:
    assert set(FIELDS) == {
        f"{name}.{item.name}" for name, (kind, _) in KINDS.items() for item in dataclasses.fields(kind)
    }
    tried = {(case.field, case.factor) for case in cases() if case.field}
    assert tried == {
        (name, factor) for name in FIELDS for factor in FACTORS if not isinstance(scaled(name, factor), str)
    }
    assert {name for name, _ in tried} == set(FIELDS)


def test_every_line_begins_with_its_baseline_and_clients_are_run_one_after_the_other() -> None:
    order = [case.line for case in cases()]
    assert list(dict.fromkeys(order)) == list(LINES)
    first = [next(case for case in cases() if case.line == line) for line in LINES]
    assert first == [Case(line=line) for line in LINES]
    clients = [line.client for line in LINES]
    assert clients == sorted(clients, key=clients.index)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("factor", FACTORS)
def test_a_changed_field_is_the_only_one_and_within_its_bounds(field: str, factor: float) -> None:
    name, _, item = field.partition(".")
    kind, _ = KINDS[name]
    changed = scaled(field, factor)
    if isinstance(changed, str):
        assert item in changed  # the range that the class expects
        return
    default, value = getattr(kind(), item), getattr(changed, item)
    assert [part.name for part in dataclasses.fields(kind) if getattr(changed, part.name) != part.default] == [item]
    if isinstance(default, tuple):
        assert value == tuple(number * factor for number in default)
    elif isinstance(default, int):
        assert isinstance(value, int)
        assert abs(value - default * factor) <= 0.5
    else:
        assert math.isclose(value, default * factor)


def test_what_a_class_refuses_is_left_out_with_its_range() -> None:
    refused = {(name, factor): scaled(name, factor) for name in FIELDS for factor in FACTORS}
    assert {pair: why for pair, why in refused.items() if isinstance(why, str)} == {
        ("FactorisationTuning.same_pattern", 2.0): "0 < same_pattern <= 1",
        ("SearchTuning.adam_memory", 2.0): "0 < adam_memory < 1",
        ("ConsistencyTuning.shares", 2.0): "0 < shares <= 1",
        ("ConsistencyTuning.nearly", 0.5): "nearly >= 1",
        ("ConsistencyTuning.margin", 2.0): "0 < margin <= 1",
    }


def made(line: Line, **psnr: float) -> dict[str, Any]:
    """Results of a line: the baseline 20 dB, changed runs as given (`settled_2`), the same pictures for the others."""
    found = {}
    for case in cases():
        if case.line == line:
            name = f"{case.field.partition('.')[2]}_{case.factor:g}".replace(".", "")
            value = psnr.get(name, 20.0) if case.field else 20.0 + case.seed
            result = {"psnr": value, "psnr_min": value, "psnr_blind": 12.5, "each": [value], "images": 4}
            found[str(case)] = {**result, "same": name not in psnr}
    return found


def of(text: str, start: str) -> list[str]:
    (row,) = (row for row in text.splitlines() if row.startswith(f"| {start}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_tables_are_right_on_results_made_by_hand() -> None:
    first, second = two()
    results = {**made(first, settled_05=20.5, settled_2=19.0), **made(second, settled_05=19.7)}
    text = table(results)
    one, other = letter(first), letter(second)
    assert of(text, "`SearchTuning.settled`")[1:] == [
        "0.001",
        "2",
        "+0.10",
        f"-0.30 ({other})",
        "-0.50",
        f"-1.00 ({one})",
    ]
    assert of(text, "`SearchTuning.adam_memory`")[3:] == ["same pictures", "-", "refused: 0 < adam_memory < 1", "-"]
    assert of(text, "`SearchTuning.colour_weight`")[2:4] == ["2, acts on none", "same pictures"]
    assert "restored_learning_rate" not in text  # its line was not run
    levels = levels_table(results)
    assert of(levels, one)[5:] == ["20.00", "21.00, 22.00", "12.5"]


def test_a_line_that_is_not_whole_is_in_no_table() -> None:
    first, second = two()
    results = {**made(first, settled_2=19.0), **made(second, settled_2=10.0)}
    results.pop(str([case for case in cases() if case.line == second][-1]))
    assert whole(results) == [first]
    assert [change.client for change in changes("SearchTuning.settled", 2.0, results)] == [letter(first)]


def two() -> tuple[Line, Line]:
    """The first two lines on which the search's own fields are changed."""
    first, second, *_ = (line for line in LINES if "SearchTuning.colour_weight" in line.fields)
    return first, second


def letter(line: Line) -> str:
    return letters()[line.client]
