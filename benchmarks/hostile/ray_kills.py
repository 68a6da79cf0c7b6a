"""Audits on a Ray cluster whose workers and whose own process are killed at random times, until they end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.frame import Result
from benchmarks.hostile.audits import AUDIT, Kept, kept, set_up, wrong
from benchmarks.hostile.children import Ended, started, waited, warm
from benchmarks.ray_cluster import Cluster, cluster

PLACES = 2
LONGEST = 300.0  # seconds in which an undisturbed audit must end
GIVEN_UP = "in each of 2 tries"  # said after the second kill of a worker during the same trial
Victim = Literal["worker", "driver"]


@dataclass(kw_only=True)
class _Tally:
    """What has happened so far.

    Args:
        folder: The folder of the audit file, in which the results are `out`.
        reference: What the undisturbed audit kept.
        counts: Kills by victim, and of these those while trials ran.
        before: Keys of the trials that were kept when the last process of the command ended.
        wrong: What went wrong.
    """

    folder: Path
    reference: Kept
    counts: dict[str, int] = field(default_factory=lambda: {"workers": 0, "drivers": 0, "under way": 0})
    before: set[str] = field(default_factory=set)
    finished_before: int = 0
    lost: int = 0
    audits: int = 0
    equal: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.counts["workers"] + self.counts["drivers"]

    def check(self, *, finished: bool) -> None:
        """Look at what the results folder holds after a process of the command has ended."""
        out = self.folder / "out"
        now, found = kept(out), wrong(out, self.reference, finished=finished, in_order=False)
        lost = self.before - set(now.trials)
        self.lost += len(lost)
        found += [f"trial {key} was lost" for key in lost]
        if now.lines != len(now.trials):
            found.append("a trial stands twice")
        self.wrong += found
        self.before = set() if finished else set(now.trials)
        if finished:
            self.audits += 1
            self.equal += not found
        else:
            self.finished_before += len(now.trials)


def run(folder: Path, *, kills: int, seed: int = 0, seeds: int = 8, steps: int = 60) -> Result:
    """Kill workers and drivers this often, at random times; the driver is the process of the command.

    Args:
        folder: An empty folder to work in.
        kills: How often.
        seed: Of the victims and the times.
        seeds: Number of seeds of the audit, which has three trials for each.
        steps: Steps of its attack.
    """
    warm()
    set_up(folder)
    text = AUDIT.replace("seeds = [0, 1]", f"seeds = {list(range(seeds))}").replace("steps = 2", f"steps = {steps}")
    (folder / "audit.toml").write_text(text)
    chance = random.Random(seed)
    with cluster(PLACES) as ray:
        args = ("audit", "audit.toml", "--out", "out", "--ray", ray.address)
        log = folder / "log"
        begun = time.monotonic()
        ended = waited(started(args, log, folder=folder), log, patience=LONGEST)
        assert ended.code == 0, ended.out
        length = time.monotonic() - begun
        tally = _Tally(folder=folder, reference=kept(folder / "out"))
        shutil.rmtree(folder / "out")
        while tally.kills < kills or tally.before or not tally.audits:  # the last one is left alone to its end
            ended = _disturbed(tally, ray, started(args, log, folder=folder), log, kills, length, chance)
            if ended.code == 0:
                tally.check(finished=True)
                shutil.rmtree(folder / "out")
            else:
                tally.check(finished=False)
                if ended.code != -signal.SIGKILL and GIVEN_UP not in ended.out:
                    tally.wrong.append(f"exit {ended.code}: {ended.out[-200:]}")
                    break
    return {
        "seconds": round(length, 1),
        "trials": len(tally.reference.trials),
        **tally.counts,
        "finished before": tally.finished_before,
        "lost": tally.lost,
        "audits": tally.audits,
        "equal": tally.equal,
        "wrong": tally.wrong,
    }


def _disturbed(
    tally: _Tally, ray: Cluster, driver: int, log: Path, kills: int, length: float, chance: random.Random
) -> Ended:
    """Kill until the driver ends."""
    while tally.kills < kills:
        victim: Victim = chance.choice(("worker", "driver"))
        until = time.monotonic() + chance.uniform(0, length)
        while time.monotonic() < until and not _has_ended(driver):
            time.sleep(0.01)
        actors = ray.actors()
        if _has_ended(driver):
            break
        if victim == "worker" and not actors:  # none has started
            continue
        tally.counts["under way"] += bool(actors)
        tally.counts[f"{victim}s"] += 1
        os.kill(driver if victim == "driver" else chance.choice(actors), signal.SIGKILL)
    return waited(driver, log, patience=LONGEST)


def _has_ended(child: int) -> bool:
    """Whether a child has ended; its end is still to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
