"""How the C library keeps memory that torch frees, which a search asks for again a moment later."""

from __future__ import annotations

import ctypes
import os

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
