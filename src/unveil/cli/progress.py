"""Progress of audits and trainings: a bar with the time left on a terminal, else one line for each trial."""

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

from unveil.audits.progress import AuditProgress


@contextmanager
def shown(console: Console) -> Iterator[Callable[[AuditProgress], None]]:
    """A listener for `audit.run` that shows every `AuditProgress` on the console."""
    if not console.is_terminal:
        yield lambda progress: _line(progress, console)
        return
    with _bar(console) as bar:
        tasks: list[TaskID] = []

        def show(progress: AuditProgress) -> None:
            step = progress.step
            trials = progress.done + progress.under_way
            name = progress.settings["obfuscation"]
            at = "trials" if step is None else f"trials  step {step.step}/{step.steps}"
            if progress.running > 1:
                at = f"trials  {progress.running} at once"
            if not tasks:
                # The bar starts after the trials of an earlier run, or it would show too little time left.
                tasks.append(bar.add_task("", total=progress.total, completed=progress.done, name=name, step=at))
            bar.update(tasks[0], completed=trials, name=name, step=at)

        yield show


@contextmanager
def fitting_shown(console: Console) -> Iterator[Callable[[str, int, int, Mapping[str, float]], None]]:
    """A listener for `fit` that shows pairs and training steps on the console, with the last validation scores."""
    if not console.is_terminal:
        yield lambda what, done, total, scores: _fitting_line(what, done, total, scores, console)
        return
    with _bar(console) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int, scores: Mapping[str, float]) -> None:
            if what not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                # The bar starts after the steps of an earlier run, or it would show too little time left.
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
    """A bar with the name, the count, the time taken and the time left."""
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
    """Print the settings, PSNR in dB and seconds of a finished trial."""
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
