"""Time and memory of an advice, before it starts: a round is trained, and each attack is run for some seconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from unveil.advice.advising import Question
from unveil.advice.candidates import Fixed, most_settings
from unveil.advice.federation import Federation
from unveil.advice.training import train
from unveil.advice.updates import first_client
from unveil.audits.memory import Attacked, refuse_too_large
from unveil.audits.profiling import MIB, Profiler
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
        mib: Memory of this process and of all processes that it starts, in MiB; None where the system cannot tell.
    """

    baseline: float
    setting: float
    settings: int
    mib: float | None = None

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
    workers: int | None = None,
    of_run: Callable[[Client, Attack], float] = seconds_of_run,
    clock: Clock = time.perf_counter,
) -> Estimate:
    """Time one round of the federation and each attack on one client's bare update, and see how much memory they take.

    Args:
        question: What is asked.
        workers: Number of processes that share the attacks; None if this process runs them.
        of_run: Seconds of one run of an attack.
        clock: Returns the time in seconds.

    Raises:
        UsageError: The model or an attack cannot be run, or needs more memory than is free.
    """
    federation, auditing = question.federation, question.auditing
    client = first_client(federation)
    refuse_too_large(_attacked(question, client), client.images.device, at_once=workers or 1)
    peaks, of_attacks = [], 0.0
    with Profiler(client.images.device) as trained:
        training = _seconds_of_training(question, clock)
    peaks.append(trained.peak_mib)
    for attack in auditing.attacks:
        with Profiler(client.images.device) as attacking:
            taken = of_run(client, attack)
            of_attacks += of_run(client, attack) if taken < BUDGET / 2 else taken
        peaks.append(attacking.peak_mib)
    a_phase = of_attacks * (1 + len(auditing.controls)) * auditing.clients / (workers or 1)
    phases = len(federation.phases)
    return Estimate(
        baseline=training + a_phase * phases,
        setting=training + a_phase * (2 * phases - 1),  # the bare update of the start was attacked before
        settings=sum(most_settings(candidate, question.steps) for candidate in question.candidates),
        mib=_mib(question, peaks, workers or 0),
    )


def _attacked(question: Question, client: Client) -> Iterator[Attacked]:
    """What is attacked: a client's update through the baseline, and through each candidate at its weaker end."""
    settings = [one.text if isinstance(one, Fixed) else one.at(one.weak) for one in question.candidates]
    for setting, attack in itertools.product((BASELINE, *settings), question.auditing.attacks):
        yield client, client.knowledge(parse(setting)), attack


def _seconds_of_training(question: Question, clock: Clock) -> float:
    """Seconds of a training with every seed, with what its trainer takes to start and to stop.

    The first round of a process also imports what it needs, which the other rounds do not. So a short one is timed
    again, and any one where the trainer starts processes.
    """
    trainer, asked = question.trainer, replace(question.federation, rounds=1)
    seed, rounds = asked.seeds[0], question.federation.rounds * len(asked.seeds)
    taken: list[float] = []
    begun = clock()
    with trainer.ready(asked, parse(BASELINE)) as rounds_of:
        while not taken or (len(taken) < 2 and (trainer.processes(asked) or taken[0] < BUDGET / 2)):
            start = clock()
            train(asked, parse(BASELINE), seed=seed, rounds=rounds_of(seed))
            taken.append(clock() - start)
    one = min(taken)
    return clock() - begun + one * (rounds - len(taken)) if trainer.processes(asked) else one * rounds


def _mib(question: Question, peaks: Sequence[float | None], workers: int) -> float | None:
    """Memory of all processes; each is taken to be as large as this one, whose peak in the training comes first."""
    known = [peak for peak in peaks if peak is not None]
    if len(known) < len(peaks):
        return None
    federation = question.federation
    training = known[0] * (1 + question.trainer.processes(federation))
    return max(training, (max(known) + _weights_mib(federation)) * (1 + workers))


def _weights_mib(federation: Federation) -> float:
    """Weights of all phases and seeds of one setting, as they are kept and inside a model each."""
    start = next(iter(federation.starts.values()))
    size = sum(tensor.numel() * tensor.element_size() for tensor in start.state_dict().values())
    return float(2 * len(federation.phases) * len(federation.seeds) * size / MIB)
