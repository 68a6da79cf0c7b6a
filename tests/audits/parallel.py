"""What tests of worker processes send to them: audits, made anew in each, and an attack whose process may be killed."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Generator
from torch.nn import Module

from fakes import Counting
from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.clients.making import make_client
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.core.protocols import Attack, Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.records import Trial
from unveil.core.registry import spec_of
from unveil.core.update import Update
from unveil.core.watch import Watch
from unveil.core.workers import Send, Work
from unveil.obfuscations import parse as parse_obfuscation

DEATHS = Path("deaths")
"""A file in the current folder: `1` for each run of the attack `Mortal` that is to kill its process, `0` for others."""


@dataclass(frozen=True, kw_only=True)
class Mortal:
    """Warns, and kills its process when `DEATHS` says so; it dies of nothing once that is used up."""

    name: ClassVar[str] = "mortal"

    def __call__(
        self, model: Module, update: Update, knowledge: Knowledge, *, generator: Generator, watch: Watch | None = None
    ) -> Reconstruction:
        logging.getLogger("unveil.tests").warning("about to attack")
        planned = DEATHS.read_text()
        DEATHS.write_text(planned[1:])
        if planned.startswith("1"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Counting()(model, update, knowledge, generator=generator, watch=watch)

    __str__ = spec_of


def an_audit(*attacks: Attack, seeds: tuple[int, ...] = (0, 1)) -> Audit:
    client = make_client(name="client", model="lenet", images="builtin", size=16, batch=2, training=FedSGD())
    return Audit(clients=[client], obfuscations=[parse_obfuscation("sign")], attacks=attacks, seeds=seeds)


def searching() -> Audit:
    return an_audit(parse_attack("rog:steps=3"))


def mortal() -> Audit:
    return an_audit(Mortal())


def started(factor: int) -> Work:
    """Work that multiplies, of a worker that cannot do it by zero."""
    if not factor:
        raise UsageError("no worker")

    def work(job: int, send: Send) -> int:
        send(f"a job of {job}")
        if not job:
            raise UsageError("nothing to do")
        return factor * job

    return work


def result(trial: Trial) -> Trial:
    """All of a trial but its times and its memory."""
    outcomes = {name: replace(outcome, seconds=0.0) for name, outcome in trial.outcomes.items()}
    return replace(trial, outcomes=outcomes, peak_mib=None)
