"""The one door of the benchmarks: tables equal their results, figures have their row, and the check can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.catalogue import BENCHMARKS
from benchmarks.frame import Benchmark, Block, Places
from benchmarks.store import Store

from benchmarks import __main__ as door
from benchmarks import figures, pages


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_table_is_what_its_results_say(name: str) -> None:
    assert list(pages.stale(BENCHMARKS[name])) == []


def test_every_figure_in_the_text_has_a_row() -> None:
    assert list(figures.problems()) == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_case_has_a_key_of_its_own(name: str) -> None:
    keys = [str(case) for case in BENCHMARKS[name].cases()]
    assert len(keys) == len(set(keys)) > 0
    assert not any("object at" in key for key in keys)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_results_belong_to_cases_and_say_where_they_were_made(name: str) -> None:
    keys = {str(case) for case in BENCHMARKS[name].cases()}
    store = Store(name)
    assert set(store.results) <= keys
    entries = json.loads(store.path.read_text(encoding="utf-8"))
    assert all(set(entry) == {"made", "result"} for entry in entries.values())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """Two cases and a page, with their store in a folder of their own."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- toy:begin -->\nold\n<!-- toy:end -->\nafter\n", encoding="utf-8")

    def store(name: str) -> Store:
        return Store(name, tmp_path)

    monkeypatch.setattr(door, "Store", store)
    monkeypatch.setattr(pages, "Store", store)
    return Benchmark(
        name="toy",
        title="two numbers",
        cases=lambda: ["one", "two"],
        run=lambda case, places: len(str(case)),
        missing=lambda case, places: "it is not here" if case == "two" else "",
        minutes=0,
        blocks=[Block(page=page, marker="toy", table=lambda results: f"{sorted(results.items())}\n")],
    )


def test_a_run_keeps_results_fills_the_table_and_runs_nothing_twice(
    toy: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.run_cases(toy, Places(), only="", fresh=False, case=None) == 0
    assert "skipped two: it is not here" in capsys.readouterr().out
    assert toy.blocks[0].page.read_text(encoding="utf-8") == (
        "before\n<!-- toy:begin -->\n[('one', 3)]\n<!-- toy:end -->\nafter\n"
    )
    made = json.loads((tmp_path / "toy.json").read_text(encoding="utf-8"))["one"]["made"]
    assert {"processor", "threads", "torch", "python", "commit"} <= set(made)
    other = replace(toy, run=lambda case, places: 99)
    door.run_cases(other, Places(), only="", fresh=False, case=None)
    assert Store("toy", tmp_path).results == {"one": 3}
    door.run_cases(other, Places(), only="one", fresh=True, case=None)
    assert Store("toy", tmp_path).results == {"one": 3}  # this commit made it
    monkeypatch.setattr("benchmarks.store.commit_here", lambda: "a later commit")
    door.run_cases(other, Places(), only="one", fresh=True, case=None)
    assert Store("toy", tmp_path).results == {"one": 99}


def test_a_result_that_does_not_say_where_it_was_made_is_run_again(toy: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text('{"one": {"made": null, "result": 1}}', encoding="utf-8")
    door.run_cases(toy, Places(), only="one", fresh=True, case=None)
    assert Store("toy", tmp_path).results == {"one": 3}


def test_the_check_names_a_table_that_was_edited(
    toy: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    door.run_cases(toy, Places(), only="", fresh=False, case=None)
    monkeypatch.setattr(door, "BENCHMARKS", {"toy": toy})
    monkeypatch.setattr(door, "problems", lambda: iter(()))
    monkeypatch.setattr(door, "ROOT", tmp_path)
    assert door.check() == 0
    page = toy.blocks[0].page
    page.write_text(page.read_text(encoding="utf-8").replace("3", "4"), encoding="utf-8")
    assert door.check() == 1
    assert "page.md: block toy is not what benchmarks/results/toy.json says" in capsys.readouterr().out


def test_a_page_without_its_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers of toy once, found them 0 times"):
        pages.filled("nothing", "toy", "text\n")


def test_a_figure_without_a_row_and_a_row_without_a_figure_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    readme, listing = tmp_path / "README.md", tmp_path / "docs/figures.md"
    readme.write_text("It reaches 27.1 dB in 3\nseconds. `9 dB` <!-- t:begin -->8 dB<!-- t:end -->\n", encoding="utf-8")
    head = "## Figures in the text\n\n| page | figures | what |\n|---|---|---|\n"
    listing.write_text(head + "| README.md | 27.1 dB; 4 seconds | c |\n| docs/no.md | 1 % | c |\n", encoding="utf-8")
    for name, value in (("ROOT", tmp_path), ("README", readme), ("DOCS", tmp_path / "docs"), ("LIST", listing)):
        monkeypatch.setattr(figures, name, value)
    assert list(figures.problems()) == [
        "README.md: the figure '3 seconds' has no row in docs/figures.md",
        "docs/figures.md: README.md has no figure '4 seconds'",
        "docs/figures.md: there is no page docs/no.md",
    ]
