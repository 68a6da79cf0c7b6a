"""The head of the report: date, author, source of the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unveil.core.records import Trial
from unveil.core.runs import Run, encoded
from unveil.report import summarise, write_report
from unveil.report.masthead import dates, facts

MakeTrial = Callable[..., Trial]


@pytest.mark.parametrize(
    ("days", "written"),
    [
        ([], "not recorded"),
        (["yesterday"], "not recorded"),
        (["2026-11-30"], "30 November 2026"),
        (["2026-12-02", "2026-11-28", "2026-11-30"], "28 November to 2 December 2026"),
        (["2027-01-01", "2026-12-31"], "31 December 2026 to 1 January 2027"),
    ],
)
def test_dates_are_written_out(days: list[str], written: str) -> None:
    assert dates(days) == written


def test_the_head_says_when_by_whom_and_of_which_pictures(trial: MakeTrial) -> None:
    runs = [Run(command="x", date="2026-11-30", author="Ada"), Run(command="y", date="2026-11-30")]
    head = dict(facts(summarise([trial()]), [trial()], runs))
    assert list(head)[:3] == ["Date", "Author", "Pictures"]
    assert (head["Date"], head["Author"]) == ("30 November 2026", "Ada")
    assert head["Pictures"] == "those built into unveil, which are public"
    assert dict(facts([], [trial()], []))["Author"] == "not named"


def test_the_report_keeps_the_commands_of_the_folder(folder: Path, trial: MakeTrial) -> None:
    commands = ["unveil audit a.toml", "unveil audit a.toml --set 'seeds=[0,1]'", "unveil audit a.toml"]
    runs = [Run(command=command, date=f"2026-11-{28 + day}") for day, command in enumerate(commands)]
    (folder / "runs.json").write_bytes(encoded(runs))
    page = write_report(folder, [trial()]).read_text(encoding="utf-8")
    assert "<pre><code>unveil audit a.toml\nunveil audit a.toml --set &#39;seeds=[0,1]&#39;</code></pre>" in page
    assert "28 November to 30 November 2026" in page


def test_damaged_runs_do_not_stop_the_report(folder: Path, trial: MakeTrial) -> None:
    (folder / "runs.json").write_bytes(b"nonsense")
    assert "not recorded" in write_report(folder, [trial()]).read_text(encoding="utf-8")
