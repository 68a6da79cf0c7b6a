"""Numbered jobs of a training, done in worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from unveil.core.errors import UsageError
from unveil.core.workers import Send, Team, Work


def share(
    work: Callable[[Any, int], None], given: Any, jobs: Sequence[int], *, workers: int, done: Callable[[], None]
) -> None:
    """Do numbered jobs in processes, several at a time; when this returns or raises, no process is left.

    A job may be stopped at any time and must not leave a partial result that looks complete.

    Args:
        work: A function of a module, called as `work(given, job)`.
        given: The first argument, which is sent to each process once.
        jobs: The second arguments.
        workers: Most processes.
        done: Called after each job.

    Raises:
        UsageError: Another program ended a worker.
        Exception: The exception that a job raised; the other jobs are stopped.
    """
    rest, left = iter(jobs), len(jobs)
    with Team(_start, (work, given)) as team:
        for worker in team.hire(min(workers, left)):
            team.give(worker, next(rest))
        for news in team.news() if left else ():
            if news.kind == "failed":
                raise news.content
            if news.kind == "ended":
                raise UsageError(
                    f"fit: a worker process was ended from outside ({news.content}), as systems do when "
                    "memory runs out; free some and run the same command again to go on"
                )
            if (following := next(rest, None)) is not None:
                team.give(news.worker, following)
            done()
            left -= 1
            if not left:
                return


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt` inside the `with` block, as Ctrl-C does, so that the code can clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(given: tuple[Callable[[Any, int], None], Any]) -> Work:
    """The function that does a job, in a worker."""
    work, first = given
    return partial(_do, partial(work, first))


def _do(work: Callable[[int], None], job: int, send: Send) -> None:
    work(job)
