"""Trials in several worker processes: the parent hands them out, and gets them back with their pictures in memory."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from unveil.audits.executor import Report
from unveil.audits.task import Runnable, Task
from unveil.audits.trial import versions_on
from unveil.audits.worker import Order, Said, begin
from unveil.core.arithmetic import choice
from unveil.core.errors import UsageError
from unveil.core.reads import Reads
from unveil.core.records import Trial
from unveil.core.watch import Progress
from unveil.core.workers import MakeCrew, News, Team

TRIES = 2  # of a trial whose worker process ended

log = logging.getLogger(__name__)


def threads_of_each(workers: int) -> int:
    """Threads of each worker: those of this process where OMP_NUM_THREADS sets them, else its share of them."""
    threads = torch.get_num_threads()
    return threads if os.environ.get("OMP_NUM_THREADS") else max(1, threads // workers)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Runs trials in processes of their own, several at a time.

    Each process makes the audit anew, so that nothing of a user's network has to be pickled, and refuses one whose
    settings or versions are not those of this process. A trial whose process ended is tried once more, by a new one.

    Args:
        make: Makes the audit; it is pickled, so it is a function of a module, or a dataclass with a call.
        count: Number of processes, at least 1.
        threads: Threads of each.
        team: Makes the processes.
        hears_steps: Whether steps of attacks arrive while they run.
        reads: Pictures and weights that were read where this process made the audit, see `core.reads`: each process is
            given them. Empty where all read the files themselves.
    """

    make: Callable[[], Runnable]
    count: int
    threads: int
    team: MakeCrew = Team
    hears_steps: bool = True
    reads: Reads = field(default_factory=dict)

    def versions(self, device: torch.device) -> Mapping[str, str]:
        """See `Executor`."""
        return {**versions_on(device), "threads": str(self.threads)}

    def __call__(
        self, audit: Runnable, tasks: Mapping[str, Task], report: Report | None
    ) -> Generator[tuple[str, Trial], None, None]:
        """See `Executor`."""
        waiting, running = deque(tasks), dict[Any, str]()
        tries, idle = Counter[str](), list[Any]()
        with self.team(begin, self._order(audit, watched=self.hears_steps and report is not None)) as team:

            def next_to(worker: Any) -> None:
                if not waiting:
                    idle.append(worker)
                else:
                    running[worker] = waiting.popleft()
                    tries[running[worker]] += 1
                    team.give(worker, running[worker])

            def say_started(worker: Any) -> None:
                if report is not None and worker in running:
                    report(running[worker], None)

            for worker in team.hire(min(self.count, len(tasks))):
                next_to(worker)
                say_started(worker)
            for news in team.news():
                if news.kind == "started":
                    next_to(news.worker)
                    say_started(news.worker)
                elif news.kind == "sent":
                    _hear(running[news.worker], news.content, report)
                elif news.kind == "done":
                    key = running.pop(news.worker)
                    next_to(news.worker)  # before the parent writes, so that the worker does not wait
                    yield key, news.content
                    say_started(news.worker)
                elif news.kind == "failed":
                    raise news.content
                elif news.worker in running:
                    key = running.pop(news.worker)
                    _refuse_another_try(tasks[key], tries[key], news)
                    waiting.appendleft(key)
                    for worker in team.hire(1) or [idle.pop() for _ in idle[:1]]:  # else the next that can takes it
                        next_to(worker)
                        say_started(worker)
                elif news.worker in idle:
                    idle.remove(news.worker)
                if not running and not waiting:
                    break
            if waiting:
                raise UsageError(
                    f"no worker process can be started for {len(waiting)} of the trials; free some room and run the "
                    "same command again, finished trials are kept"
                )

    def _order(self, audit: Runnable, *, watched: bool) -> Order:
        """What each worker is given."""
        if self.threads != torch.get_num_threads():
            log.warning(
                "each of %d workers computes with %d of the %d threads that an audit without --workers has, which can "
                "change scores by more than the last digits; with OMP_NUM_THREADS=%d both compute alike",
                self.count,
                self.threads,
                torch.get_num_threads(),
                self.threads,
            )
        return Order(
            make=self.make,
            folder=os.getcwd(),
            arithmetic=choice(),
            threads=self.threads,
            settings=audit.settings(),
            versions=self.versions(audit.device),
            watched=watched,
            reads=self.reads,
        )


def _hear(key: str, content: Any, report: Report | None) -> None:
    """Pass on what a worker sends while a trial runs: a step of its attack, or a message for the log."""
    if isinstance(content, Said):
        logging.getLogger(content.logger).log(content.level, "%s", content.message)
    elif isinstance(content, Progress) and report is not None:
        report(key, content)


def _refuse_another_try(task: Task, tries: int, news: News) -> None:
    """Log that a trial is tried again; raise a `UsageError` where it was tried often enough."""
    ended = f"a worker process ended ({news.content}), as when memory runs out"
    what = ", ".join(task.settings[name] for name in ("client", "obfuscation", "attack") if name in task.settings)
    if tries >= TRIES:
        raise UsageError(
            f"{what}, seed {task.seed}: {ended}, in each of {tries} tries; free memory or take fewer --workers, and "
            "run the same command again, finished trials are kept"
        )
    log.warning("%s, seed %d: %s; the trial is tried once more", what, task.seed, ended)
