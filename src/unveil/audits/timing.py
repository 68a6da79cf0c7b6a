"""How long an audit takes: each attack is run for a few seconds, and the rest is reckoned from its steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from unveil.audits.audit import Audit
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.core.protocols import Attack
from unveil.core.records import BASELINE
from unveil.core.watch import Progress
from unveil.obfuscations import parse

BUDGET = 10.0
"""Seconds after which a run is stopped, if it has taken two steps by then."""

Clock = Callable[[], float]


class _Enough(BaseException):
    """Leaves an attack. No `Exception`, because errors of other people's attacks are caught."""


def seconds_of_run(
    client: Client, attack: Attack, *, budget: float = BUDGET, clock: Clock = time.perf_counter
) -> float:
    """The time of one run of an attack on the bare update, in seconds; reckoned from the first steps if it takes long.

    Args:
        client: The client.
        attack: The attack.
        budget: Seconds after which the run is stopped, if it has taken two steps by then.
        clock: Returns the time in seconds.

    Raises:
        UsageError: The client or the attack cannot be run.
    """
    start, marks = clock(), list[tuple[Progress, float]]()

    def watch(progress: Progress) -> None:
        marks.append((progress, clock()))
        if marks[-1][1] - start >= budget and progress.step > marks[0][0].step:
            raise _Enough

    try:
        play(client, parse(BASELINE), attack, watch=watch)
    except _Enough:
        (first, begun), (last, now) = marks[0], marks[-1]
        a_step = (now - begun) / (last.step - first.step)
        return begun - start + a_step * max(last.steps - first.step, 0)
    return clock() - start


def seconds_of_audit(audit: Audit, of_run: Callable[[Client, Attack], float] = seconds_of_run) -> float:
    """The time of all trials of an audit with their controls, in seconds, each as long as one on the bare update.

    Args:
        audit: The audit.
        of_run: Seconds of one run.
    """
    known: dict[tuple[str, str], float] = {}
    total = 0.0
    for client, _, _, attack, _ in audit.trials():
        key = (client.name, str(attack))
        if key not in known:
            known[key] = of_run(client, attack)
            if known[key] < BUDGET / 2:  # the first run of a process also imports what it needs
                known[key] = of_run(client, attack)
        total += known[key] * (1 + len(audit.controls))
    return total
