"""Flower's simulation engine in this process, on a Ray of its own that listens on the loopback interface alone."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from ipaddress import ip_address
from queue import Queue
from typing import TYPE_CHECKING, Any

from unveil.core.errors import UsageError
from unveil.core.files import reason_of
from unveil.core.ray_loopback import listening

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

PULL = 0.01  # seconds between looks for replies
PATIENCE = 30.0  # seconds in which the engine must have stopped
FIX = 'set trainer = "plain" under federation to train without Flower; finished trainings are kept'


def quiet() -> None:
    """Let neither Flower nor Ray report to its makers, and let Ray ask for a token, unless the user chose otherwise.

    Both read these settings once, when they are imported.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def local_ray(processors: int) -> Iterator[None]:
    """Start Ray on this machine for the time of the `with` block.

    Args:
        processors: Processors that it hands out.

    Raises:
        UsageError: Ray cannot be started, or this process is connected to a cluster.
    """
    quiet()
    import ray

    if ray.is_initialized():
        raise UsageError(f"Flower's simulation: this process is connected to a Ray cluster already; {FIX}")
    at_termination = signal.getsignal(signal.SIGTERM)  # Ray changes it; its processes end with this one anyway
    try:
        with (
            redirect_stdout(StringIO()),
            warnings.catch_warnings(),
            listening(on_loopback_alone=True),
        ):
            warnings.simplefilter("ignore")  # tips on later versions of Ray
            ray.init(
                address="local",
                num_cpus=processors,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except Exception as error:  # Ray raises all kinds, also `Exception` itself
        ray.shutdown()
        raise UsageError(f"Flower's simulation: Ray does not start ({reason_of(error)}); {FIX}") from None
    finally:
        signal.signal(signal.SIGTERM, at_termination)
    try:
        if not ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise UsageError(f"Flower's simulation: this Ray would listen beyond this machine; {FIX}")
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """A running simulation.

    Args:
        grid: What messages are sent over.
        thread: The thread in which the simulation runs.
        nodes: The node of each client, in no order.
    """

    grid: Grid
    thread: threading.Thread
    nodes: Sequence[int]

    def ask(self, content: RecordDict) -> Iterator[Message]:
        """Send a message to every client to train, and yield their replies as they arrive."""
        from flwr.app import Message

        messages = [Message(content, node, "train") for node in self.nodes]
        waiting = set(self.grid.push_messages(messages))
        while waiting:
            for reply in self.grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            _refuse_ended(self.thread)
            time.sleep(PULL)


@contextmanager
def simulation(app: ClientApp, *, clients: int, threads: int) -> Iterator[Engine]:
    """Run Flower's simulation on the started Ray for the time of the `with` block.

    Args:
        app: What each client runs.
        clients: Number of clients.
        threads: Processors that each client takes while it computes.

    Raises:
        UsageError: It does not start.
    """
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    grids, ended, resources = Queue[Any](), threading.Event(), {"num_cpus": threads, "num_gpus": 0.0}

    def serve_until_ended(grid: Grid, context: Any) -> None:
        grids.put(grid)
        ended.wait()

    def simulate() -> None:
        server = ServerApp()
        server.main()(serve_until_ended)
        try:
            run_simulation(server, app, num_supernodes=clients, backend_config={"client_resources": resources})
        except Exception as error:
            grids.put(error)

    thread = threading.Thread(target=simulate, daemon=True)
    with _silent("flwr"):  # failures are told by replies
        thread.start()
        try:
            yield _begun(grids.get(), thread, clients)
        except BaseException:
            ended.set()
            with redirect_stdout(StringIO()):  # where Ray says of every process that it has ended
                _kill_clients()
                thread.join(PATIENCE)
            raise
        else:
            ended.set()
            thread.join(PATIENCE)


def _begun(grid: Any, thread: threading.Thread, clients: int) -> Engine:
    """The engine, once it knows all of its clients."""
    if isinstance(grid, Exception):
        raise UsageError(f"Flower's simulation does not start ({reason_of(grid)}); {FIX}") from None
    while len(nodes := list(grid.get_node_ids())) < clients:
        _refuse_ended(thread)
        time.sleep(PULL)
    return Engine(grid=grid, thread=thread, nodes=nodes)


def _kill_clients() -> None:
    """End the processes in which clients compute; Flower would wait until they have finished their training."""
    import psutil  # Ray brings it

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[0].startswith("ray::ClientApp"):
                process.kill()


def _refuse_ended(thread: threading.Thread) -> None:
    if not thread.is_alive():
        raise UsageError(f"Flower's simulation has ended by itself; {FIX}")


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Let a logger say nothing inside the `with` block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
