"""Worker processes: what they do, what their failures become, and that none outlives whoever wanted its work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unveil.core.errors import UsageError
from unveil.fitting.workers import share, terminated_as_interrupted

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of POSIX")
LONG = 60.0  # seconds after which a test gives up waiting; none of them needs more than a few


class UnsendableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def note(folder: Path, job: int) -> None:
    (folder / f"{job}-{os.getpid()}").touch()


def fail_at_two(folder: Path, job: int) -> None:
    note(folder, job)
    if job == 2:
        raise OSError(28, "No space left on device", str(folder))


def fail_in_a_way_of_its_own(folder: Path, job: int) -> None:
    raise UnsendableError(1, 2)


def die(folder: Path, job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_job_is_done_once_by_as_many_processes_as_there_is_work_for(tmp_path: Path) -> None:
    calls: list[int] = []
    share(note, tmp_path, range(7), workers=2, done=lambda: calls.append(1))
    names = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(int(job) for job, _ in names) == list(range(7))
    assert len(calls) == 7
    workers = {pid for _, pid in names}
    assert len(workers) <= 2
    assert str(os.getpid()) not in workers
    share(note, tmp_path, [], workers=2, done=lambda: pytest.fail("nothing was to be done"))
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_what_a_job_raises_is_raised_here_and_the_others_stop(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as error:
        share(fail_at_two, tmp_path, range(500), workers=2, done=lambda: None)
    assert error.value.errno == 28
    assert "fail_at_two" in "".join(error.value.__notes__)
    assert len(list(tmp_path.iterdir())) < 500
    assert not multiprocessing.active_children()
    with pytest.raises(RuntimeError, match="UnsendableError: 1 and 2"):
        share(fail_in_a_way_of_its_own, tmp_path, [0], workers=1, done=lambda: None)


def test_an_interrupt_ends_the_workers_at_once(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share(note, tmp_path, range(500), workers=2, done=stop)
    assert not multiprocessing.active_children()


@posix
def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a worker process was ended from outside \(exit code -9\).* to go on"):
        share(die, tmp_path, range(3), workers=1, done=lambda: None)
    assert not multiprocessing.active_children()


@posix
def test_a_request_to_terminate_is_an_interrupt_while_it_is_asked_for() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


PARENT = """
import signal, sys
from pathlib import Path
from sleepers import sleep
from unveil.fitting.workers import share, terminated_as_interrupted

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminated_as_interrupted():
            share(sleep, Path(sys.argv[1]), range(9), workers=2, done=lambda: None)
    except KeyboardInterrupt:
        sys.exit(130)
"""
SLEEPERS = """
import fcntl, time

def sleep(folder, job):
    lock = (folder / f"lock-{job}").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # held as long as this process lives
    (folder / f"ready-{job}").touch()
    time.sleep(600)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [("SIGINT", True, 130), ("SIGINT", False, 130), ("SIGTERM", False, 130), ("SIGKILL", False, -9)],
)
def test_no_worker_outlives_its_parent(tmp_path: Path, number: str, to_group: bool, code: int) -> None:
    import fcntl

    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    parent = subprocess.Popen(
        [sys.executable, "parent.py", str(tmp_path)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + LONG
    while not all((tmp_path / f"ready-{job}").exists() for job in (0, 1)):
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    (os.killpg if to_group else os.kill)(parent.pid, getattr(signal, number))
    _, said = parent.communicate(timeout=LONG)
    assert parent.returncode == code
    assert "Traceback" not in said
    for job in (0, 1):
        with (tmp_path / f"lock-{job}").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < until, "a worker is left behind"
                    time.sleep(0.02)
