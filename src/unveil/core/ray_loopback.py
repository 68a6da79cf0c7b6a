"""Keeping Ray to the loopback of one machine, where nobody else can reach it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, a node's address is that of the loopback, and Ray listens there alone.

Ray sets it so on systems whose firewall asks about each port that listens; it does the same on Linux.
"""

SOON = 5.0  # seconds in which a port must answer


@contextmanager
def listening(*, on_loopback_alone: bool) -> Iterator[None]:
    """Inside the `with` block, let what this process starts and joins of Ray listen there alone, or everywhere.

    Ray reads the variable once, when it is imported, and what it read is set here, too.
    """
    from ray._private import ray_constants

    before = os.environ.get(VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[VARIABLE] = "0" if on_loopback_alone else "1"
    ray_constants.ENABLE_RAY_CLUSTER = not on_loopback_alone
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before[0]


def is_on_loopback_alone(host: str, port: int) -> bool:
    """Return whether a port of this machine answers at the loopback, and not at the machine's own address."""
    own = own_address()
    try:
        is_loopback = socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False
    return is_loopback and own is not None and _answers(host, port) and not _answers(own, port)


def own_address() -> str | None:
    """Return the address from which this machine reaches others; None if it reaches none."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))  # which sends nothing
        own = str(asked.getsockname()[0])
        return None if own.startswith("127.") else own
    return None


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=SOON):
        return True
    return False
