"""Worker processes that end when their parent ends, for whatever reason, and at once when it is interrupted.

This module imports nothing large, so that a worker watches its parent even while it is still importing torch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from unveil.core.errors import UsageError

PATIENCE = 5.0  # seconds to wait for a killed process to end


def share(
    work: Callable[[Any, int], None], given: Any, jobs: Sequence[int], *, workers: int, done: Callable[[], None]
) -> None:
    """Do numbered jobs in processes, several at a time; when this returns or raises, no process is left.

    A job may be stopped at any time and must not leave a partial result that looks complete. A terminal sends Ctrl-C to
    the parent and to the workers; the workers ignore it.

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
    content, rest = pickle.dumps((work, given), pickle.HIGHEST_PROTOCOL), iter(jobs)
    team: dict[Connection, SpawnProcess] = {}
    try:
        for _ in range(min(workers, len(jobs))):
            pipe, process = _hired()
            team[pipe] = process
        for pipe, process in team.items():
            with _alive(process):
                pipe.send_bytes(content)
                pipe.send(next(rest))
        busy = set(team)
        while busy:
            for pipe in busy & set(wait(list(busy))):
                with _alive(team[pipe]):
                    failure = pipe.recv()
                if failure is not None:
                    raise failure
                following = next(rest, None)
                if following is None:
                    busy.remove(pipe)
                else:
                    with _alive(team[pipe]):
                        pipe.send(following)
                done()
    finally:
        for process in team.values():
            process.kill()
        for pipe, process in team.items():
            process.join(PATIENCE)
            pipe.close()


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


def _hired() -> tuple[Connection, SpawnProcess]:
    """Start a worker; return the parent's end of the pipe to it, and the process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    with _interrupts_held():
        process.start()
    theirs.close()
    return ours, process


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT inside the `with` block; a process that is started there has it blocked for ever."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _alive(process: SpawnProcess) -> Iterator[None]:
    """Raise a `UsageError` if the pipe to a worker breaks inside the `with` block."""
    try:
        yield
    except (EOFError, ConnectionError):
        process.join(PATIENCE)
        raise UsageError(
            f"fit: a worker process was ended from outside (exit code {process.exitcode}), as systems do when memory "
            "runs out; free some and run the same command again to go on"
        ) from None


def _serve(pipe: Connection) -> None:
    """Run a worker: receive the function, then do the jobs that arrive, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work, given = pickle.loads(pipe.recv_bytes())
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        failure: BaseException | None = None
        try:
            work(given, job)
        except Exception as error:
            failure = _portable(error)
        pipe.send(failure)


def _end_with_parent() -> None:
    """Wait until the parent process has ended, then end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return the exception with its traceback as a note; a `RuntimeError` with its text if it cannot be pickled."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
