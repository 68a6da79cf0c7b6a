"""A Ray cluster of this machine, with a token of its own, whose nodes end with the `with` block."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from unveil.core.ray_loopback import VARIABLE

PATIENCE = 120.0  # seconds in which a node must be there, and end
STARTED = b"Ray runtime started"  # what Ray prints when a node has joined
ACTOR = b"ray::Served"  # how Ray calls the processes that run trials
QUIET = ("--disable-usage-stats", "--include-log-monitor=false")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that runs.

    Args:
        address: `HOST:PORT` of its first node.
        nodes: The process of each node, whose descendants are all of its processes.
    """

    address: str
    nodes: Sequence[int]

    def actors(self, node: int | None = None) -> list[int]:
        """Process numbers of the actors that run trials, of one node or of all."""
        parents = _parents()
        roots = set(self.nodes if node is None else self.nodes[node : node + 1])
        return [pid for pid in parents if _title(pid).startswith(ACTOR) and roots & set(_ancestors(pid, parents))]

    def processes(self, node: int) -> list[int]:
        """Process numbers of everything that runs on a node."""
        parents = _parents()
        return [pid for pid in parents if self.nodes[node] in (pid, *_ancestors(pid, parents))]


@contextmanager
def cluster(*processors: int) -> Iterator[Cluster]:
    """Start a node for each number of processors; the environment has the token inside the `with` block.

    A single node listens on the loopback alone; those of several must reach one another. Workers get the priority of
    this process, so that on a busy machine all are slowed down alike.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        VARIABLE: "0" if len(processors) == 1 else "1",
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with ExitStack() as stack:
            # Short, because a path of a socket has at most 107 characters.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True))
            place = (f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}")
            first = ("--head", "--include-dashboard=false", *place)
            nodes = []
            for number, count in enumerate(processors):
                where = (f"--address={address}",) if number else first
                nodes.append(
                    stack.enter_context(_node(*where, f"--num-cpus={count}", log=Path(folder, f"{number}.log")))
                )
            yield Cluster(address=address, nodes=nodes)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def _node(*args: str, log: Path) -> Iterator[int]:
    """Start a node, and end it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *args, *QUIET]
    with log.open("wb") as out:
        node = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE
        while STARTED not in (said := log.read_bytes()):
            if node.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node does not start: {said.decode(errors='replace')[-1000:]}")
            time.sleep(0.05)
        yield node.pid
    finally:
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            node.kill()


def _parents() -> dict[int, int]:
    """Process -> its parent, of all processes of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it ended
                continue
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
