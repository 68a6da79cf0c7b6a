from pathlib import Path

import pytest
import torch

from unveil.audits import profiling
from unveil.audits.profiling import Profiler
from unveil.core.watch import Progress

CPU = torch.device("cpu")
PROGRESS = Progress(step=1, steps=2, loss=0.0, images=lambda: None)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(profiling.time, "perf_counter", lambda: self.now)

    def move(self, seconds: float) -> None:
        self.now += seconds


def test_time_of_the_watch_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    seen = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        clock.move(50.0)

    with Profiler(CPU) as measured:
        unmetered = measured.unmetered(watch)
        clock.move(2.0)
        assert unmetered is not None
        unmetered(PROGRESS)
        clock.move(1.0)
    assert seen == [PROGRESS]
    assert measured.seconds == pytest.approx(3.0)


def test_no_watch_stays_no_watch() -> None:
    with Profiler(CPU) as measured:
        assert measured.unmetered(None) is None


@pytest.mark.skipif(not profiling.RESET.exists(), reason="the system does not tell the peak of a part of a run")
def test_peak_is_that_of_the_block_alone() -> None:
    big = torch.ones(64 * profiling.MIB)  # 256 MiB, gone again before the block
    del big
    with Profiler(CPU) as small:
        pass
    with Profiler(CPU) as large:
        torch.ones(64 * profiling.MIB)
    assert small.peak_mib is not None
    assert large.peak_mib is not None
    assert large.peak_mib > small.peak_mib + 200


def test_no_peak_rather_than_a_wrong_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiling, "RESET", tmp_path / "absent" / "clear_refs")
    with Profiler(CPU) as measured:
        pass
    assert measured.peak_mib is None
