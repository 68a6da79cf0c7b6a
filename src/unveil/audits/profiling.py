"""Wall time and peak memory of one block of work, without the time that watches take."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import torch

from unveil.core.watch import Progress, Watch

MIB = 1 << 20
RESET = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


class Profiler:
    """Measure what happens inside a `with` block.

    Args:
        device: Where the work is done. On CUDA the peak is the allocator's, elsewhere that of the process.

    Attributes:
        seconds: Wall time of the block in seconds, less the time spent in `unmetered` watches.
        peak_mib: Peak memory during the block in MiB; None where the system cannot tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.peak_mib: float | None = None
        self._device = device
        self._watched = 0.0

    def __enter__(self) -> Profiler:
        self._can_measure = _reset_peak(self._device)
        self._start = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds = self._now() - self._start - self._watched
        self.peak_mib = _peak_mib(self._device) if self._can_measure else None

    def unmetered(self, watch: Watch | None) -> Watch | None:
        """The same watch, whose time does not count."""
        if watch is None:
            return None

        def timed(progress: Progress) -> None:
            start = self._now()
            watch(progress)
            self._watched += self._now() - start

        return timed

    def _now(self) -> float:
        # CUDA works asynchronously: without this the clock would stop before the work does.
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _reset_peak(device: torch.device) -> bool:
    """Set the recorded peak to the present memory. False where the system cannot: an old peak is of earlier work."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        RESET.write_text("5")  # proc(5): resets the peak resident set to the current one
    except OSError:
        return False
    return True


def _peak_mib(device: torch.device) -> float | None:
    """Peak memory since the reset, in MiB; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None
