"""Attacking the updates of a federation that was trained through one obfuscation, and what comes back of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from unveil.advice.federation import FederatedRun, Federation, Phase
from unveil.advice.leakage import Leakage, judged
from unveil.advice.updates import NOWHERE, Auditing, Places, audit_of, name_of, phases_of
from unveil.audits.executor import Executor
from unveil.audits.progress import AuditProgress
from unveil.audits.running import SERIAL, run
from unveil.core.errors import UnattackableError
from unveil.core.protocols import MayAddNoise, Obfuscation
from unveil.core.records import BASELINE
from unveil.gate.conditions import Condition

Executors = Callable[[str, Places], Executor]
"""Returns what runs the trials of an obfuscation, without those of some clients."""


def in_this_process(obfuscation: str, without: Places) -> Executor:
    """Run one trial after the other; see `Executors`."""
    return SERIAL


def audited(
    federation: Federation,
    runs: Sequence[FederatedRun],
    obfuscation: Obfuscation,
    auditing: Auditing,
    target: Condition,
    folder: Path,
    *,
    on_progress: Callable[[AuditProgress], None] | None = None,
    command: str = "",
    executors: Executors = in_this_process,
) -> Leakage:
    """Attack the updates that clients of a federation send in each phase, and judge what comes back.

    A client whose update is all zeros or not finite, as after a training that broke, is left out; the leakage says so.

    Args:
        federation: The federation.
        runs: Its training through this obfuscation, one for each seed.
        obfuscation: The obfuscation.
        auditing: How updates are attacked.
        target: The condition under which the target is missed.
        folder: The results folder of the trials; those that are there are not run again.
        on_progress: Called with every `AuditProgress`; None for no reports.
        command: The command that runs this, which the folder keeps.
        executors: What runs the trials.

    Raises:
        UsageError: A component cannot work with a client, or the folder cannot be written.
    """
    faults: dict[str, str] = {}
    without: Places = NOWHERE
    phases = phases_of(federation, runs)
    places = list(product(phases, range(auditing.clients)))
    names = {(phase, number): name_of(runs, phase, number) for phase, number in places}
    while True:
        audit = audit_of(federation, runs, obfuscation, auditing, without=without)
        try:
            executor = executors(str(obfuscation), without)
            trials = run(audit, folder, on_progress, command=command, executor=executor) if audit.audits else []
            break
        except UnattackableError:
            found = audit.unattackable()
            if not found:
                raise
            faults |= found
            without = frozenset(place for place, name in names.items() if name in faults)
    clients = {phase: [names[at] for at in places if at[0] == phase and at not in without] for phase in phases}
    left_out = {
        phase: _sentence(phase, [faults[names[at]] for at in places if at[0] == phase and at in without], auditing)
        for phase in phases
        if len(clients[phase]) < auditing.clients
    }
    return judged(trials, clients, row_name(federation, str(obfuscation)), target, left_out=left_out)


def _sentence(phase: Phase, faults: Sequence[str], auditing: Auditing) -> str:
    """How many clients were left out in a phase, and why."""
    why = faults[0].partition(", so ")[0].removeprefix("the update ").removeprefix("update: ")
    return (
        f"At the {phase} of the training {len(faults)} of {auditing.clients} attacked clients have nothing to attack: "
        f"the update {why}."
    )


def row_name(federation: Federation, obfuscation: str) -> str:
    """Return the name that reports give an obfuscation: noise of the local training comes before it."""
    training = federation.training
    if not (isinstance(training, MayAddNoise) and training.without_noise()):
        return obfuscation
    return str(training) if obfuscation == BASELINE else f"{training}, then {obfuscation}"
