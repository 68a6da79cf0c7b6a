"""Audits that are killed, at random times and at chosen writes, and started again until they end."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame import Result
from benchmarks.hostile.audits import kept, set_up, wrong
from benchmarks.hostile.children import started, waited, warm

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ARGS = ("audit", "audit.toml", "--out", "out")
LONGEST = 2.0  # seconds until a random kill
CALLS = ("fsync", "replace", "write")
EXITS = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (-signal.SIGTERM,), signal.SIGINT: (130,)}


def run(folder: Path, *, kills: int, seed: int = 0) -> Result:
    """Kill an audit this often, every second time at a chosen write.

    Args:
        folder: An empty folder to work in.
        kills: How often.
        seed: Of the times and the writes.
    """
    warm()
    set_up(folder)
    log, out = folder / "log", folder / "out"
    assert waited(started(ARGS, log, folder=folder), log).code == 0, log.read_text()
    reference = kept(out)
    chance, found = random.Random(seed), []
    counts = dict.fromkeys((one.name for one in SIGNALS), 0)
    placed = at_random = audits = 0
    while sum(counts.values()) < kills:
        shutil.rmtree(out)
        audits, before, done = audits + 1, set[str](), False
        for attempt in itertools.count():
            how = SIGNALS[sum(counts.values()) % len(SIGNALS)]
            is_last = sum(counts.values()) >= kills or attempt > 8
            inside, delay = None, None
            if not is_last and attempt % 2:
                inside = _at_write(chance.randrange(30), how)
            elif not is_last:
                delay = chance.uniform(0.02, LONGEST)
            ended = _killed(started(ARGS, log, folder=folder, inside=inside), log, how, delay)
            if ended.code in EXITS[how] and not is_last:
                counts[how.name] += 1
                placed, at_random = placed + bool(inside), at_random + (not inside)
            elif ended.code != 0:
                found.append(f"exit {ended.code}: {ended.out[-200:]}")
            done = ended.code == 0
            found += wrong(out, reference, finished=done)
            now = set(kept(out).trials)
            found += [f"trial {key} was lost" for key in before - now]
            if kept(out).lines != len(now):
                found.append("a trial stands twice")
            before = now
            if done:
                break
    return {**counts, "at random": at_random, "at writes": placed, "audits": audits, "wrong": found}


def _killed(child: int, log: Path, how: signal.Signals, delay: float | None) -> Any:
    if delay is not None:
        time.sleep(delay)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(child, how)
    return waited(child, log)


def _at_write(number: int, how: signal.Signals) -> Callable[[], None]:
    """What makes a process kill itself before its write of this number: a sync, or a rename."""

    def install() -> None:
        left = itertools.count(number, -1)

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                if next(left) == 0:
                    os.kill(os.getpid(), how)
                return real(*args, **options)

            return call

        os.fsync = counted(os.fsync)
        Path.replace = counted(Path.replace)  # type: ignore[method-assign]

    return install
