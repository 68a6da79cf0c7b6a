"""Worker processes of a Ray cluster, with the face of `workers.Team`; needs the extra `ray`."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unveil.core.errors import UsageError
from unveil.core.files import reason_of
from unveil.core.workers import News, Work, portable

AUTO = "auto"
SOON = 5.0  # seconds in which a cluster must answer
PATIENCE = 60.0  # seconds in which an actor must find room while none has a job
START = "start one with `RAY_AUTH_MODE=token ray start --head`"


class Served:
    """An actor: makes the function that does the jobs, and does them. Whatever fails is an answer, too.

    Args:
        content: The function that makes it and its argument, pickled, as an array of bytes.
        path: Where the parent finds modules; what of it is not searched here is searched last.
    """

    def __init__(self, content: UInt8[np.ndarray, " bytes"], path: Sequence[str]) -> None:
        sys.path.extend(place for place in path if place not in sys.path)
        self._content: Any = content  # lies in the node's memory, where its actors share it
        self._work: Work | None = None

    def run(self, job: Any) -> bytes:
        """Do a job; returns what became of it, and what was sent meanwhile, pickled."""
        sent: list[Any] = []
        try:
            if self._work is None:
                start, given = pickle.loads(self._content)
                self._work = start(given)
                self._content = None  # which frees it, once all actors have done so
            return pickle.dumps(("done", self._work(job, sent.append), sent), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            return pickle.dumps(("failed", portable(error), sent), pickle.HIGHEST_PROTOCOL)


class RayTeam:
    """Actors of the connected cluster; arguments and methods as those of `workers.Team`.

    What a job sends arrives when it has ended.

    Args:
        start: As in `Team`.
        given: As in `Team`; it goes into the cluster's object store once, and from there once to each node.
        cpus: Processors that each actor reserves.
        gpus: GPUs that each actor reserves, which sees no others; a fraction shares one.
    """

    def __init__(self, start: Callable[[Any], Work], given: Any, *, cpus: int, gpus: float) -> None:
        import ray

        content = pickle.dumps((start, given), pickle.HIGHEST_PROTOCOL)
        self._content = ray.put(np.frombuffer(content, np.uint8))  # an array is read in place; bytes would be copied
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._actors: list[Any] = []
        self._starting: dict[Any, Any] = {}  # what is awaited -> the actor
        self._running: dict[Any, Any] = {}

    def __enter__(self) -> RayTeam:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def hire(self, number: int) -> list[Any]:
        """Ask for actors and return none: Ray starts each when it finds room, now or later, and `news` says so."""
        import ray

        kind = ray.remote(**self._resources)(Served)
        for _ in range(number):
            actor = kind.remote(self._content, sys.path)
            self._actors.append(actor)
            self._starting[actor.__ray_ready__.remote()] = actor
        return []

    def give(self, worker: Any, job: Any) -> None:
        """Send a job to an actor that has none."""
        self._running[worker.run.remote(job)] = worker

    def news(self) -> Iterator[News]:
        """Wait for what becomes of jobs and of starting actors, until no job is left and no actor finds room."""
        import ray

        while self._running or self._starting:
            awaited = [*self._running, *self._starting]
            ready, _ = ray.wait(awaited, timeout=None if self._running else PATIENCE)
            if not ready:
                return
            if ready[0] in self._starting:  # one that died of it says so when it is given a job
                yield News(worker=self._starting.pop(ready[0]), kind="started", content=None)
                continue
            worker = self._running.pop(ready[0])
            try:
                kind, content, sent = pickle.loads(ray.get(ready[0]))
            except ray.exceptions.RayError as error:  # the process or its node is gone
                yield News(worker=worker, kind="ended", content=type(error).__name__)
                continue
            for said in sent:
                yield News(worker=worker, kind="sent", content=said)
            yield News(worker=worker, kind=kind, content=content)


@contextmanager
def connected(address: str) -> Iterator[Mapping[str, float]]:
    """Connect to a Ray cluster inside the `with` block, and give its resources, such as `CPU` and `GPU`.

    With `auto`, token authentication is turned on unless the user has set `RAY_AUTH_MODE` or has imported Ray before; a
    cluster that is named is asked as the user's environment says. Authentication is never turned off.

    Args:
        address: `HOST:PORT` of a cluster; `auto` for the one that runs on this machine, or else one that is started for
            the time of the `with` block.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    try:
        version("ray")
    except PackageNotFoundError:
        raise UsageError("--ray needs Ray; pip install 'unveil[ray]', or use --workers without it") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address != AUTO:
        _refuse_silent(address)
    elif "ray" not in sys.modules:  # which reads the mode once, when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tips on later versions of Ray
            try:
                ray.init(address=address, **quiet)
            except ConnectionError:
                if address != AUTO:
                    raise
                ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises all kinds, also `Exception` itself where a node takes long to start
        raise _unanswered(address, reason_of(error)) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raise a `UsageError` if nothing listens at `HOST:PORT`; Ray itself asks for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {address}: expected HOST:PORT of a Ray cluster, or {AUTO}; {START}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SOON).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unanswered(address, reason_of(error)) from None


def _unanswered(address: str, reason: str) -> UsageError:
    reason = reason.rstrip(".:; ")
    return UsageError(f"--ray {address}: no Ray cluster answers ({reason}); {START}, or leave --ray out")
