import io
from collections.abc import Callable

from rich.console import Console

from unveil.core.records import Trial
from unveil.report import print_table
from unveil.report.table import LONGEST


def printed(trials: list[Trial]) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_table(trials, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_line_an_obfuscation_within_100_columns(trial: Callable[..., Trial]) -> None:
    text = printed([trial(obfuscation=spec) for spec in ("none", "fp16", "topk:density=0.05+qsgd:levels=16,norm=max")])
    assert max(map(len, text.splitlines())) <= 100
    (line,) = [line for line in text.splitlines() if line.startswith("fp16")]
    for part in ("LEAKS", "26.2 [", "11.0", "0.80", "1 Mbit", "8×", "2 s"):
        assert part in line


def test_the_headline_stands_above_without_marks(trial: Callable[..., Trial]) -> None:
    text = printed([trial(), trial(obfuscation="fp16")])
    assert text.startswith("The pictures came back")
    assert "`" not in text


def test_a_name_with_brackets_is_text(trial: Callable[..., Trial]) -> None:
    assert "[bold]x[/]" in printed([trial(client="[bold]x[/]", obfuscation="[bold]x[/]")])


def test_missing_scores_are_dashes(trial: Callable[..., Trial]) -> None:
    assert "–" in printed([trial(psnr=[])])


def test_a_long_table_shows_its_first_rows_and_how_many_there_are(trial: Callable[..., Trial]) -> None:
    text = printed([trial(obfuscation=f"topk:density=0.{1000 + number}") for number in range(1, LONGEST + 4)])
    shown = [line for line in text.splitlines() if line.startswith("topk:")]
    assert len(shown) == LONGEST
    assert shown[0].startswith("topk:density=0.1001")
    assert text.count(f"the first {LONGEST} of {LONGEST + 3} rows; the report and summary.csv have all") == 1
