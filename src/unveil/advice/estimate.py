"""How long an advice takes, before it starts: a round is trained, and each attack is run for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from unveil.advice.advising import Question
from unveil.advice.candidates import most_settings
from unveil.advice.federation import train
from unveil.advice.leakage import attacked_client, start_of
from unveil.audits.timing import BUDGET, seconds_of_run
from unveil.clients.client import Client
from unveil.core.protocols import Attack
from unveil.core.records import BASELINE
from unveil.obfuscations import parse

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an advice takes if obfuscated updates take as long as bare ones.

    Args:
        baseline: Seconds of the baseline.
        setting: Seconds of each setting.
        settings: Number of settings that are tried at most.
    """

    baseline: float
    setting: float
    settings: int

    @property
    def total(self) -> float:
        """Seconds of everything."""
        return self.baseline + self.settings * self.setting

    def fitting(self, budget: float) -> int:
        """Number of settings that fit into a budget in seconds, beside the baseline."""
        return min(self.settings, max(0, int((budget - self.baseline) / max(self.setting, 1e-9))))


def estimate(
    question: Question,
    *,
    of_run: Callable[[Client, Attack], float] = seconds_of_run,
    clock: Clock = time.perf_counter,
) -> Estimate:
    """Time one round of the federation and each attack on one client's bare update.

    Args:
        question: What is asked.
        of_run: Seconds of one run of an attack.
        clock: Returns the time in seconds.

    Raises:
        UsageError: The model or an attack cannot be run.
    """
    federation, auditing = question.federation, question.auditing
    seed = federation.seeds[0]
    start = clock()
    train(replace(federation, rounds=1), parse(BASELINE), seed=seed)
    training = (clock() - start) * federation.rounds * len(federation.seeds)
    client = attacked_client(federation, start_of(federation), auditing, "start", 0)
    of_attacks = 0.0
    for attack in auditing.attacks:
        taken = of_run(client, attack)
        # The first run of a process also imports what it needs, so that a short one is timed again.
        of_attacks += of_run(client, attack) if taken < BUDGET / 2 else taken
    a_phase = of_attacks * (1 + len(auditing.controls)) * auditing.clients
    phases = len(federation.phases)
    return Estimate(
        baseline=training + a_phase * phases,
        setting=training + a_phase * (2 * phases - 1),  # the bare update of the start was attacked before
        settings=sum(most_settings(candidate, question.steps) for candidate in question.candidates),
    )
