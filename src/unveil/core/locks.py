"""A lock on a folder, so that two processes do not write into it at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unveil.core.errors import UsageError
from unveil.core.files import shown

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(folder: Path, *, fix: str) -> Iterator[None]:
    """Hold the lock of a folder inside the `with` block.

    The lock is the system's, on the folder itself: it leaves no file, and it ends with the process however that ends.
    Windows and some network disks have no such locks; there, nothing is locked.

    Args:
        folder: The folder, which exists.
        fix: The end of the message: what to do.

    Raises:
        UsageError: Another process holds the lock.
    """
    if sys.platform == "win32":
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is writing into {shown(folder)}; {fix}") from None
        except OSError:  # a disk without locks
            pass
        yield
    finally:
        os.close(opened)
