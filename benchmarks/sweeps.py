"""What many trials at once cost: a sweep of tiny trials in one process, in two, and on a Ray cluster; and kills on Ray.

A trial's own time is that of the whole trial in the process that runs it, from the client's update to the last score.
What is left of the time of all processes is overhead: handing a trial out, getting it back, and writing it. The first
trials are left out, in which processes start and packages are imported.
"""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn import Flatten, Linear, Module, Sequential

from benchmarks.frame import DOCS, Benchmark, Block, Places, Result, Results
from benchmarks.hostile.children import held
from benchmarks.pages import lines
from unveil import attacks
from unveil.audits.audit import Audit
from unveil.audits.executor import Executor, Serial
from unveil.audits.kept_pictures import Kept
from unveil.audits.progress import AuditProgress
from unveil.audits.running import run as run_audit
from unveil.audits.task import Task
from unveil.audits.workers import Workers
from unveil.clients.client import Client
from unveil.clients.pictures import load_pictures
from unveil.core.records import ATTACK, Trial
from unveil.core.watch import Watch

TRIALS, FIRST, TOGETHER = 1000, 100, 2
"""Trials of a sweep, those of them that are left out, and processes that run them."""
KILLS = 20


@dataclass(frozen=True)
class Case:
    """One sweep, or the kills.

    Args:
        name: Its key in the results.
        title: What runs the trials, for the table; empty for the kills.
    """

    name: str
    title: str = ""

    def __str__(self) -> str:
        return self.name


SERIAL, WORKERS, RAY, DEATHS = (
    Case("serial", "one process"),
    Case("workers", "`--workers 2`"),
    Case("ray", "`--ray`"),
    Case("kills on Ray"),
)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """An audit whose trials say how long they took as a whole, instead of how long their attack took."""

    audit: Audit

    @property
    def images(self) -> Kept:
        """As of the audit."""
        return self.audit.images

    @property
    def device(self) -> torch.device:
        """As of the audit."""
        return self.audit.device

    def __len__(self) -> int:
        return len(self.audit)

    def settings(self) -> dict[str, Any]:
        """As of the audit."""
        return self.audit.settings()

    def tasks(self) -> Iterator[Task]:
        """The trials of the audit, each with its own time."""
        for task in self.audit.tasks():
            yield dataclasses.replace(task, run=partial(_timed, task.run))


def _timed(run: Callable[[Watch | None], Trial], watch: Watch | None) -> Trial:
    start = time.perf_counter()
    trial = run(watch)
    outcome = dataclasses.replace(trial.outcomes[ATTACK], seconds=time.perf_counter() - start)
    return dataclasses.replace(trial, outcomes={ATTACK: outcome})


def tiny(trials: int) -> Timed:
    """An audit of tiny trials: one built-in picture of 16 px, a network of one layer, one step of ROG."""
    pictures = load_pictures("builtin", count=1, size=16)
    network = Sequential(Flatten(), Linear(pictures.images[0].numel(), 14))
    _same_weights(network)
    client = Client(network, pictures.images, pictures.labels, classes=14)
    attack = attacks.parse("rog:steps=1")
    return Timed(audit=Audit(clients=[client], obfuscations=[], attacks=[attack], seeds=range(trials)))


def _same_weights(network: Module) -> None:
    """Draw the weights from a seed, so that every process has the same."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.05, 0.05, generator=generator)


def missing(case: Case, places: Places) -> str:
    """Why a case cannot be run here."""
    return "" if case in (SERIAL, WORKERS) or ray_here() else "Ray is not installed here; pip install 'unveil[ray]'"


def ray_here() -> str:
    """The version of Ray that is installed; empty for none."""
    try:
        return version("ray")
    except PackageNotFoundError:
        return ""


def run(case: Case, places: Places) -> Result:
    """Run a sweep in a folder of its own, or kill."""
    from benchmarks.hostile import ray_kills

    with tempfile.TemporaryDirectory() as folder:
        if case == DEATHS:
            return {"ray": ray_here(), **ray_kills.run(Path(folder), kills=KILLS)}
        torch.set_num_threads(1)
        return sweep(case, Path(folder))


def sweep(case: Case, folder: Path, *, trials: int = TRIALS, first: int = FIRST) -> Result:
    """Run a sweep.

    Args:
        case: What runs the trials.
        folder: An empty folder.
        trials: Number of trials.
        first: How many of them are left out.

    Returns:
        `own`, `overhead` and `driver`, milliseconds a trial; `start`, seconds until the first trial was kept; `held`,
        the driver's memory in MiB after the trials that are left out, and after all.
    """
    marks: dict[int, tuple[float, float, float]] = {}

    def noted(progress: AuditProgress) -> None:
        if progress.trial is not None and progress.done in (1, first, trials):
            used = resource.getrusage(resource.RUSAGE_SELF)
            marks[progress.done] = (time.perf_counter(), used.ru_utime + used.ru_stime, held())

    with ExitStack() as stack:
        start = time.perf_counter()
        executor = _executor(case, partial(tiny, trials), stack)
        run_audit(tiny(trials), folder / "out", noted, executor=executor)
    return summary(marks, _own(folder / "out", first), start, places=1 if case == SERIAL else TOGETHER)


def summary(
    marks: Mapping[int, tuple[float, float, float]], own: float, start: float, *, places: int
) -> Mapping[str, Any]:
    """What `sweep` returns.

    Args:
        marks: Number of kept trials -> time and processor time of the driver in seconds, and its memory in MiB.
        own: Seconds that the trials took that are not left out, together.
        start: When the sweep was started.
        places: How many trials run at once.
    """
    begun, first, last = sorted(marks)
    trials, wall = last - first, marks[last][0] - marks[first][0]
    return {
        "ray": ray_here(),
        "trials": last,
        "own": round(1000 * own / trials, 2),
        "overhead": round(1000 * (wall * places - own) / trials, 2),
        "driver": round(1000 * (marks[last][1] - marks[first][1]) / trials, 2),
        "start": round(marks[begun][0] - start, 1),
        "held": [round(marks[number][2], 1) for number in (first, last)],
    }


def _own(folder: Path, first: int) -> float:
    """Seconds that the trials of a results folder took, without the first ones that were kept."""
    from unveil.audits.results import read_trials

    return sum(trial.outcomes[ATTACK].seconds for trial in read_trials(folder)[first:])


def _executor(case: Case, make: Callable[[], Timed], stack: ExitStack) -> Executor:
    """What runs the trials of a case; a cluster lasts as long as the stack."""
    if case == SERIAL:
        return Serial()
    workers = partial(Workers, make=make, count=TOGETHER, threads=1)
    if case == WORKERS:
        return workers()
    from benchmarks.ray_cluster import cluster
    from unveil.core.ray_workers import RayTeam, connected

    address = stack.enter_context(cluster(TOGETHER)).address
    stack.enter_context(connected(address))
    return workers(team=partial(RayTeam, address=address, cpus=1, gpus=0.0), hears_steps=False)


def overheads(results: Results) -> Iterator[str]:
    """A row for each sweep."""
    yield (
        "| trials run in | a trial's own ms | overhead, ms a trial | processor time of the command, ms a trial | "
        "its memory after 100, MiB | after 1,000 | start, s |"
    )
    yield "|---|---|---|---|---|---|---|"
    for case in (SERIAL, WORKERS, RAY):
        if str(case) in results:
            one = results[str(case)]
            title = f"{case.title}, Ray {one['ray']}" if case == RAY else case.title
            before, after = one["held"]
            yield (
                f"| {title} | {one['own']:.1f} | {one['overhead']:.1f} | {one['driver']:.1f} | {before:.0f} | "
                f"{after:.0f} | {one['start']:.0f} |"
            )


def deaths(results: Results) -> Iterator[str]:
    """What came of the kills."""
    if str(DEATHS) not in results:
        yield "Nothing was killed yet."
        return
    one = results[str(DEATHS)]
    yield (
        "| kills of a worker | kills of the command | while workers were there | trials kept at these times | of these "
        "lost | audits that ended | equal to the undisturbed one | went wrong |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    yield (
        f"| {one['workers']} | {one['drivers']} | {one['under way']} | {one['finished before']} | {one['lost']} | "
        f"{one['audits']} | {one['equal']} | {len(one['wrong'])} |"
    )
    yield from ([""] if one["wrong"] else [])
    yield from (f"- {what}" for what in one["wrong"])


BENCHMARK = Benchmark(
    name="sweeps",
    title="what many trials at once cost, and what survives kills on Ray",
    cases=lambda: (SERIAL, WORKERS, RAY, DEATHS),
    run=run,
    missing=missing,
    apart=True,
    minutes=8,
    blocks=(
        Block(page=DOCS / "sweeps.md", marker="sweeps", table=lines(overheads)),
        Block(page=DOCS / "sweeps.md", marker="sweeps-kills", table=lines(deaths)),
    ),
)
