"""Memory that is kept although it was freed, and objects among which no garbage is looked for."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of glibc's `mallopt`
LARGEST_KEPT = 64 << 20  # bytes of a block; larger ones go back to the system at once
MOST_KEPT = 256 << 20  # bytes at the end of the heap


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 64 MiB, at most 256 MiB at the end of its heap.

    By default glibc gives such blocks back to the system, which clears them again at their next use: an eighth of an
    attack's processor time. Results do not change. The variables `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_`,
    where a user has set them, stay as they are.

    Returns:
        Whether it was set; false with other C libraries.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(TRIM_THRESHOLD, MOST_KEPT))


@contextmanager
def no_garbage() -> Iterator[None]:
    """Look for no reference cycles inside the `with` block, which is to make millions of objects and drop few.

    A report of 2,000 trials would spend a fifth of its time on looking, and find nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
