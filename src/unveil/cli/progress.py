"""How an audit goes, for whoever waits: a bar with the time left on a terminal, a line a trial anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

from unveil.audits.audit import AuditProgress


@contextmanager
def shown(console: Console) -> Iterator[Callable[[AuditProgress], None]]:
    """Give a listener for `audit.run` that shows every `AuditProgress` on the console."""
    if not console.is_terminal:
        yield lambda progress: _line(progress, console)
        return
    with _bar(console) as bar:
        tasks: list[TaskID] = []

        def show(progress: AuditProgress) -> None:
            step = progress.step
            part = 0.0 if step is None else min(step.step / max(step.steps, 1), 1.0)
            trials = progress.done if progress.trial else min(progress.done + part, progress.total)
            name = progress.settings["obfuscation"]
            at = "trials" if step is None else f"trials  step {step.step}/{step.steps}"
            if not tasks:
                # Trials of an earlier run are where this one starts, or the time left would be far too short.
                tasks.append(bar.add_task("", total=progress.total, completed=progress.done, name=name, step=at))
            bar.update(tasks[0], completed=trials, name=name, step=at)

        yield show


@contextmanager
def fitting_shown(console: Console) -> Iterator[Callable[[str, int, int, Mapping[str, float]], None]]:
    """The same for `unveil fit`: pairs and training steps, with the scores of the last look."""
    if not console.is_terminal:
        yield lambda what, done, total, scores: _fitting_line(what, done, total, scores, console)
        return
    with _bar(console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int, scores: Mapping[str, float]) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                # What an earlier run has done is where this one starts, or the time left would be far too short.
                tasks[what] = bar.add_task("", total=total, completed=done, name=what, step="")
            found = ", ".join(f"{name} {value:.2f}" for name, value in list(scores.items())[:3])
            bar.update(tasks[what], completed=done, step=found)

        yield show


def _fitting_line(what: str, done: int, total: int, scores: Mapping[str, float], console: Console) -> None:
    if done % max(total // 20, 1) and len(scores) < 4:
        return
    found = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    console.print(f"[{done}/{total}] {what}  {found}", markup=False, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=600,
        refresh_per_second=4,
    )


def _line(progress: AuditProgress, console: Console) -> None:
    trial = progress.trial
    if trial is None:
        return
    psnr = trial.scores.get("psnr", [])
    score = f"{sum(psnr) / len(psnr):.1f} dB, " if psnr else ""
    what = ", ".join(trial.settings[key] for key in ("client", "training", "obfuscation", "attack"))
    console.print(
        f"[{progress.done}/{progress.total}] {what}, seed {trial.seed}: {score}{trial.final.seconds:.1f} s",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
