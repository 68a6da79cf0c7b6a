"""A command that runs while a test listens: it waits for a line, then sends a signal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def heard(running: subprocess.Popen[str], start: str) -> str:
    """Wait for a line of its stderr that starts so, and return all lines until then."""
    assert running.stderr is not None
    said = ""
    while not (line := running.stderr.readline()).startswith(start):
        assert line, said
        said += line
    return said + line


@contextmanager
def interruptible() -> Iterator[None]:
    """Children started inside answer SIGINT, also where these tests run in a script's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
