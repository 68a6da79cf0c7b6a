"""Commands of unveil in forked children: torch is imported once, and each command is measured from its own start."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unveil.cli import app

PATIENCE = 60.0
"""Seconds until a command that does not end is killed."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended.

    Args:
        code: Its exit code; minus the signal's number if a signal ended it; None if it did not end.
        out: Its standard output and error, together.
        seconds: Its processor time.
        mib: How much its memory grew.
    """

    code: int | None
    out: str
    seconds: float
    mib: float


def warm() -> None:
    """Import here what commands import, so that children need not."""
    torch.set_num_threads(1)

    import unveil.audits.running
    import unveil.captures.reading
    import unveil.cli.config
    import unveil.cli.presenting
    import unveil.cli.progress
    import unveil.cli.recorded
    import unveil.fitting.fit
    import unveil.report.html  # noqa: F401


def started(args: Sequence[str], log: Path, *, inside: Callable[[], object] | None = None, folder: Path) -> int:
    """Start a command in a forked child and return its process number.

    Args:
        args: The command's arguments, without `unveil`.
        log: The file of what it prints.
        inside: Called in the child before the command.
        folder: The child's working directory.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["unveil", *args]
        log.with_suffix(".held").write_text(str(held()))
        if inside is not None:
            inside()
        app.main(list(args))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException as error:
        print(f"not caught: {error!r}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waited(child: int, log: Path, *, patience: float = PATIENCE) -> Ended:
    """Wait for a child's end; a child that does not end is killed.

    Args:
        child: Its process number.
        log: The file of what it prints.
        patience: Seconds to wait.
    """
    deadline = time.monotonic() + patience
    code: int | None = None
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, _, used = os.wait4(child, 0)
            break
        time.sleep(0.002)
    text = log.read_text(errors="surrogateescape") if log.exists() else ""
    before = log.with_suffix(".held")
    grown = used.ru_maxrss / 1024 - float(before.read_text()) if before.exists() else 0.0
    return Ended(code=code, out=text, seconds=used.ru_utime + used.ru_stime, mib=max(grown, 0.0))


def called(args: Sequence[str], *, folder: Path, patience: float = PATIENCE) -> Ended:
    """Run a command in a forked child to its end; arguments as for `started` and `waited`."""
    log = folder / "command.log"
    return waited(started(args, log, folder=folder), log, patience=patience)


def held() -> float:
    """MiB that this process holds now, and a child when it starts."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
