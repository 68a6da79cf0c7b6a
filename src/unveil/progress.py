"""How an audit goes, for whoever waits: a bar with the time left on a terminal, a line a trial anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from unveil.audit import Standing


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Standing], None]]:
    """Give a listener for `audit.run` that shows every standing on the console."""
    if not console.is_terminal:
        yield lambda standing: _line(standing, console)
        return
    with _bar(console) as bar:
        tasks: list[TaskID] = []

        def show(standing: Standing) -> None:
            step = standing.progress
            part = 0.0 if step is None else min(step.step / max(step.steps, 1), 1.0)
            trials = standing.done if standing.trial else min(standing.done + part, standing.total)
            channel = standing.settings["obfuscation"]
            at = "" if step is None else f"step {step.step}/{step.steps}"
            if not tasks:
                # Trials of an earlier run are where this one starts, or the time left would be far too short.
                tasks.append(bar.add_task("", total=standing.total, completed=standing.done, channel=channel, step=at))
            bar.update(tasks[0], completed=trials, channel=channel, step=at)

        yield show


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[channel]}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("trials  {task.fields[step]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=600,
        refresh_per_second=4,
    )


def _line(standing: Standing, console: Console) -> None:
    trial = standing.trial
    if trial is None:
        return
    psnr = trial.scores.get("psnr", [])
    score = f"{sum(psnr) / len(psnr):.1f} dB, " if psnr else ""
    what = ", ".join(trial.settings[key] for key in ("scene", "training", "obfuscation", "attack"))
    console.print(
        f"[{standing.done}/{standing.total}] {what}, seed {trial.seed}: {score}{trial.seconds:.1f} s",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
