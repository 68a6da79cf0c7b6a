"""Worker processes of a Ray cluster, with the face of `workers.Team`; needs the extra `ray`."""

from __future__ import annotations

import os
import pickle
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unveil.core.errors import UsageError
from unveil.core.files import reason_of
from unveil.core.ray_loopback import SOON, is_on_loopback_alone, listening
from unveil.core.workers import News, Work, portable

AUTO = "auto"
PATIENCE = 60.0  # seconds in which an actor must find room while none has a job
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")
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
    """Actors of a cluster, to which it connects for the time of its `with` block; otherwise as `workers.Team`.

    What a job sends arrives when it has ended.

    Args:
        start: As in `Team`.
        given: As in `Team`; it goes into the cluster's object store once, and from there once to each node.
        address: The cluster, as in `connected`.
        cpus: Processors that each actor reserves.
        gpus: GPUs that each actor reserves, which sees no others; a fraction shares one.
    """

    def __init__(self, start: Callable[[Any], Work], given: Any, *, address: str, cpus: int, gpus: float) -> None:
        self._address, self._given = address, (start, given)
        self._resources = {"num_cpus": cpus, "num_gpus": gpus}
        self._connection = ExitStack()
        self._content: Any = None
        self._actors: list[Any] = []
        self._starting: dict[Any, Any] = {}  # what is awaited -> the actor
        self._running: dict[Any, Any] = {}

    def __enter__(self) -> RayTeam:
        self._connection.enter_context(connected(self._address))
        import ray

        content = pickle.dumps(self._given, pickle.HIGHEST_PROTOCOL)
        self._content = ray.put(np.frombuffer(content, np.uint8))  # an array is read in place; bytes would be copied
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        with self._connection:
            for actor in self._actors:
                ray.kill(actor)
            self._content = None

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

    A process that is connected stays connected to the same cluster.

    With `auto`, token authentication is turned on unless the user has set `RAY_AUTH_MODE` or has imported Ray before; a
    cluster that is named is asked as the user's environment says. Authentication is never turned off. What is started
    here listens on the loopback alone, and a cluster that does is joined there.

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
    cluster = started_before() if address == AUTO else address
    place = None if cluster is None else _listening(address, cluster)
    if address == AUTO and "ray" not in sys.modules:  # which reads the mode once, when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    where: dict[str, Any] = {"address": cluster or "local", "log_to_driver": False, "logging_level": "ERROR"}
    with ExitStack() as stack:
        stack.enter_context(listening(on_loopback_alone=place is None or is_on_loopback_alone(*place)))
        try:
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tips on later versions of Ray
                ray.init(**where, **({} if cluster else {"include_dashboard": False}))
        except Exception as error:  # Ray raises all kinds, also `Exception` itself where a node takes long to start
            raise other_versions(address, error) or _unanswered(address, reason_of(error)) from None
        stack.callback(ray.shutdown)
        yield ray.cluster_resources()


def started_before() -> str | None:
    """Return `HOST:PORT` of the cluster that is meant on this machine; None if there is none.

    It is the one that `RAY_ADDRESS` names, or the one that `ray start` started last, if it still answers. Clusters that
    other programs run for themselves, as Flower's simulation does, are never meant.
    """
    if given := os.environ.get("RAY_ADDRESS"):
        return given
    try:
        latest = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text().strip()
        _listening(AUTO, latest)
    except (OSError, UsageError):
        return None
    return latest


def _listening(asked: str, cluster: str) -> tuple[str, int]:
    """Return host and port of a cluster if something listens there; without it Ray itself asks for minutes.

    Args:
        asked: What `--ray` was given, for the message.
        cluster: `HOST:PORT`.

    Raises:
        UsageError: Nothing listens there.
    """
    host, _, port = cluster.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray {cluster}: expected HOST:PORT of a Ray cluster, or {AUTO}; {START}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SOON).close()
        return host.strip("[]"), int(port)
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unanswered(asked, reason_of(error)) from None


def other_versions(address: str, error: Exception) -> UsageError | None:
    """Return what to say where Ray refuses a cluster of other versions; None for any other error of `ray.init`."""
    versions = VERSIONS.findall(str(error))
    if len(versions) != 2:
        return None
    there, here = (f"Ray {ray} on Python {python}" for ray, python in versions)
    return UsageError(
        f"--ray {address}: the cluster runs {there}, and this process {here}; install the same on all nodes"
    )


def _unanswered(address: str, reason: str) -> UsageError:
    reason = reason.rstrip(".:; ")
    return UsageError(f"--ray {address}: no Ray cluster answers ({reason}); {START}, or leave --ray out")
