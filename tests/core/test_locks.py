"""The lock on a folder: one holder at a time, and it ends with the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unveil.core.errors import UsageError
from unveil.core.locks import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders have no locks there")

HOLDER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_locked_once_and_again_when_it_is_free(tmp_path: Path) -> None:
    says = f"another process is writing into {tmp_path}; wait"
    with locked(tmp_path, fix="wait"), pytest.raises(UsageError, match=says), locked(tmp_path, fix="wait"):
        pass
    with locked(tmp_path, fix="wait"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another process is writing"), locked(tmp_path, fix=""):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(tmp_path, fix=""):
        pass


def test_a_disk_without_locks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path, fix=""):
        pass
