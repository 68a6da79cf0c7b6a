"""A script: `unveil advise` undisturbed, then killed at one point after the other until a run ends.

It leaves the folders `whole` and `killed`, and `log`, with each training and trial of the killed runs that was begun or
kept. It prints how each of these runs ended: its exit code, or the number of a signal below zero.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from unveil.advice import advising, estimate, folder, training
from unveil.audits import audit, running
from unveil.audits.results import trial_key
from unveil.cli.app import main

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
POINTS = (1, 4, 9, 26, 14, 30)
"""Round or file at which a run ends, from 1; each signal ends two."""


def wrapped(module: Any, name: str, *, before: Callable[..., None] | None = None, after: Any = None) -> None:
    """Let a function of a module call others, too, with its own arguments."""
    own = getattr(module, name)

    def all_of(*args: Any, **options: Any) -> Any:
        if before is not None:
            before(*args, **options)
        found = own(*args, **options)
        if after is not None:
            after(*args, **options)
        return found

    setattr(module, name, all_of)


def noted(what: str, *names: object) -> None:
    """Add a line to the log."""
    with Path("log").open("a", encoding="utf-8") as log:
        log.write(" ".join(map(str, (what, *names))) + "\n")


def watch() -> None:
    """Write down every training and every trial that begins, and every one that is kept."""
    wrapped(advising, "train", before=lambda asked, o, seed, **_: noted("begun", "training", o, seed))
    wrapped(folder, "keep", after=lambda where, key, run: noted("kept", "training", run.obfuscation, run.seed))
    wrapped(
        audit,
        "run_trial",
        before=lambda *args, **options: noted("begun", "trial", keyed(*args, **options)),
    )
    wrapped(
        running,
        "append",
        after=lambda where, trial: noted("kept", "trial", trial_key(trial.settings, trial.seed)),
    )


def keyed(client: Any, obfuscation: Any, attack: Any, *, seed: int, threat_model: Any, **_: object) -> str:
    """The key of a trial that begins."""
    return trial_key(audit.settings_of(client, obfuscation, attack, threat_model, None), seed)


def killed_at(point: int, how: signal.Signals) -> None:
    """Send this process a signal at a later round or file."""
    left = point

    def passed(*args: object, **options: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), how)

    for module, name in ((training, "_step"), (os, "fsync"), (os, "replace")):
        wrapped(module, name, before=passed)


def advised(out: str) -> int:
    """Advise in this process, and return the exit code."""
    sys.argv = ["unveil", "advise", "advise.toml", "--out", out]
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def ended(point: int | None, how: signal.Signals) -> int:
    """Advise in a process of its own that is killed at a point, and return how it ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this script was started without it
    watch()
    if point is not None:
        killed_at(point, how)
    os._exit(advised("killed"))


if __name__ == "__main__":
    estimate.estimate = lambda question, **_: estimate.Estimate(baseline=1, setting=1, settings=1)  # type: ignore[assignment]
    codes = [advised("whole")]
    codes += [ended(point, how) for point, how in zip(POINTS, cycle(SIGNALS), strict=False)]
    codes.append(ended(None, signal.SIGKILL))
    sys.stdout.flush()
    print(*codes)
