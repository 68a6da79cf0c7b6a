"""Memory that torch frees stays with the process, and a user's own settings of the C library stay as they are."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import pytest

from unveil.core.allocation import no_garbage

CODE = """
import resource, sys
import torch
from unveil.core.allocation import keep_freed_memory

assert keep_freed_memory() is (sys.argv[1] == "kept")
for _ in range(3):
    torch.ones(4_000_000)  # 16 MiB, 3,906 pages
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(4_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has the setting")
def test_a_block_that_is_freed_is_used_again_without_new_pages() -> None:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}

    def pages(what: str, **settings: str) -> int:
        ended = subprocess.run(
            [sys.executable, "-c", CODE, what], env=plain | settings, check=True, capture_output=True, text=True
        )
        return int(ended.stdout)

    # 50 blocks are 195,300 pages; a few of them may be taken anew, because the system reclaims what is not used.
    assert pages("kept") < 60_000
    assert pages("not kept", MALLOC_MMAP_THRESHOLD_="131072") > 100_000


@pytest.mark.parametrize("before", [True, False])
def test_garbage_is_looked_for_again_as_before_also_after_an_error(before: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with no_garbage(), no_garbage():
            assert not gc.isenabled()
        assert gc.isenabled() is before
        with pytest.raises(ZeroDivisionError), no_garbage():
            raise ZeroDivisionError
        assert gc.isenabled() is before
    finally:
        (gc.enable if was_enabled else gc.disable)()
