"""Worker processes that end when their parent ends, for whatever reason, and are left alone by its Ctrl-C.

This module imports nothing large, so that a worker watches its parent even while it is still importing torch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Literal, Protocol

PATIENCE = 5.0  # seconds to wait for a killed process to end

Send = Callable[[Any], None]
"""Sends something to the parent while a job runs."""

Work = Callable[[Any, Send], Any]
"""Does a job; what it returns is sent to the parent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Worker:
    """One process.

    Args:
        process: The process.
        pipe: The parent's end of the pipe to it.
    """

    process: SpawnProcess
    pipe: Connection


@dataclass(frozen=True, kw_only=True)
class News:
    """What a worker sent, or that it has started or ended.

    Args:
        worker: The worker.
        kind: `started` once a worker that `hire` did not return can be given a job; `sent` while a job runs; `done`
            with what the job returned; `failed` with the exception that the job, or the start of the worker, raised;
            `ended` with how its process ended, in words; it does nothing more.
        content: What came.
    """

    worker: Any
    kind: Literal["started", "sent", "done", "failed", "ended"]
    content: Any


class Crew(Protocol):
    """What hands out jobs needs of workers, wherever they are; `Team` says what each does."""

    def __enter__(self) -> Crew: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def hire(self, number: int) -> list[Any]:
        """Start workers, and return those that can be given a job now; `news` tells of others once there is room."""
        ...

    def give(self, worker: Any, job: Any) -> None:
        """Send a job to a worker that has none."""
        ...

    def news(self) -> Iterator[News]:
        """Wait for what workers send, until none has a job or finds room."""
        ...


MakeCrew = Callable[[Callable[[Any], Work], Any], Crew]
"""Makes a crew, from the two arguments of `Team`."""


class Team:
    """Processes that do jobs; after the `with` block none is left. Whatever travels is pickled.

    A job may be stopped at any time and must not leave a partial result that looks complete. A terminal sends Ctrl-C to
    the parent and to the workers; the workers ignore it.

    Args:
        start: A function of a module, called once in each process; it returns the function that does the jobs.
        given: Its argument.
    """

    def __init__(self, start: Callable[[Any], Work], given: Any) -> None:
        self._content = pickle.dumps((start, given), pickle.HIGHEST_PROTOCOL)
        self._workers: dict[Connection, Worker] = {}

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join(PATIENCE)
            worker.pipe.close()

    def hire(self, number: int) -> list[Any]:
        """Start workers."""
        hired = []
        for _ in range(number):
            worker = _started()
            self._workers[worker.pipe] = worker
            hired.append(worker)
        for worker in hired:  # once all are starting: a large content waits for its reader
            _send(worker, self._content)
        return hired

    def give(self, worker: Worker, job: Any) -> None:
        """Send a job to a worker that has none; if the worker has ended, `news` says so."""
        _send(worker, pickle.dumps(job, pickle.HIGHEST_PROTOCOL))

    def news(self) -> Iterator[News]:
        """Wait for what workers send, until all have ended."""
        while self._workers:
            for pipe in wait(list(self._workers)):
                worker = self._workers[pipe]  # type: ignore[index]
                try:
                    content = worker.pipe.recv_bytes()
                except (EOFError, OSError):
                    worker.process.join(PATIENCE)
                    worker.pipe.close()
                    del self._workers[worker.pipe]
                    yield News(worker=worker, kind="ended", content=f"exit code {worker.process.exitcode}")
                else:
                    kind, found = pickle.loads(content)
                    yield News(worker=worker, kind=kind, content=found)


def _send(worker: Worker, content: bytes) -> None:
    """Send bytes to a worker, if it has not ended."""
    with suppress(OSError):
        worker.pipe.send_bytes(content)


def _started() -> Worker:
    """Start a process that serves a pipe."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    with _interrupts_held():
        process.start()
    theirs.close()
    return Worker(process=process, pipe=ours)


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


def _serve(pipe: Connection) -> None:
    """Run a worker: make the function, then do the jobs that arrive, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(kind: str, content: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL))

    work: Work | None = None
    try:
        start, given = pickle.loads(pipe.recv_bytes())
        work = start(given)
    except Exception as error:
        send("failed", portable(error))
    while work is not None:
        try:
            job = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            send("done", work(job, lambda content: send("sent", content)))
        except Exception as error:
            send("failed", portable(error))


def _end_with_parent() -> None:
    """Wait until the parent process has ended, then end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def portable(error: Exception) -> Exception:
    """Return the exception with its traceback as a note; a `RuntimeError` with its text if it cannot be pickled."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
