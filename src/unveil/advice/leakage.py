"""What comes back of a federation's updates at its start, in its middle and at its end, through one obfuscation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from unveil.advice.federation import FederatedRun, Federation, Phase
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER
from unveil.audits.kept_pictures import Kept
from unveil.audits.progress import AuditProgress
from unveil.audits.running import run
from unveil.audits.scoring import MetricSelection
from unveil.audits.task import Task
from unveil.clients.client import Client, EvaluationSet
from unveil.core.protocols import Attack, MayAddNoise, Obfuscation
from unveil.core.records import BASELINE, Trial
from unveil.gate.conditions import Condition
from unveil.gate.judging import Judgement, Ruling, judge
from unveil.gate.pools import Pool
from unveil.report import summarise


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """How the updates of a federation are attacked.

    Args:
        attacks: The attacks.
        metrics: What reconstructions are scored with.
        clients: How many clients are attacked in each phase, each in the federation of one seed: no picture counts
            twice, and all seeds take turns.
        controls: Names of updates of other pictures, on which each attack is run too.
        images: Which pictures the results keep.
    """

    attacks: Sequence[Attack]
    metrics: MetricSelection
    clients: int
    controls: Sequence[str] = (ANOTHER,)
    images: Kept = "full"


@dataclass(frozen=True, kw_only=True, eq=False)
class Leakage:
    """What comes back through one obfuscation.

    Args:
        judgements: Phase -> what each attack reached there, by the target.
    """

    judgements: Mapping[Phase, Sequence[Judgement]]

    @property
    def worst(self) -> Judgement | None:
        """The judgement that counts: of those with a ruling the one with the least room; None if there is none."""
        judged = [one for one in self._all if one.ruling is not Ruling.UNJUDGED]
        return min(judged, key=lambda one: one.room, default=None)

    @property
    def worst_phase(self) -> Phase | None:
        """The phase of `worst`."""
        return next((phase for phase, found in self.judgements.items() if self.worst in found), None)

    @property
    def ruling(self) -> Ruling:
        """Exceeded in any phase; else passed if some phase could be judged; else not judged."""
        return Ruling.UNJUDGED if self.worst is None else self.worst.ruling

    @property
    def unjudged_phases(self) -> list[Phase]:
        """Phases in which no attack finds anything in the bare update."""
        return [
            phase for phase, found in self.judgements.items() if all(one.ruling is Ruling.UNJUDGED for one in found)
        ]

    @property
    def reason(self) -> str:
        """Why nothing could be judged: the sentence of the first judgement."""
        return next((one.sentence for one in self._all if one.ruling is Ruling.UNJUDGED), "")

    @property
    def _all(self) -> list[Judgement]:
        return [one for found in self.judgements.values() for one in found]


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Audits that are run as one, into one results folder; see `Runnable`."""

    audits: Sequence[Audit]

    @property
    def images(self) -> Kept:
        """Which pictures the results keep."""
        return self.audits[0].images

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        return self.audits[0].device

    def __len__(self) -> int:
        return sum(map(len, self.audits))

    def settings(self) -> dict[str, Any]:
        """The settings of all audits, whose lists are joined."""
        each = [audit.settings() for audit in self.audits]
        clients = {client["name"]: client for settings in each for client in settings["clients"]}
        seeds = [seed for settings in each for seed in settings["seeds"]]
        return {**each[0], "clients": list(clients.values()), "seeds": list(dict.fromkeys(seeds))}

    def tasks(self) -> Iterator[Task]:
        """The trials of one audit after the other."""
        for audit in self.audits:
            yield from audit.tasks()


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
) -> Leakage:
    """Attack the updates that clients of a federation send in each phase, and judge what comes back.

    Args:
        federation: The federation.
        runs: Its training through this obfuscation, one for each seed.
        obfuscation: The obfuscation.
        auditing: How updates are attacked.
        target: The condition under which the target is missed.
        folder: The results folder of the trials; those that are there are not run again.
        on_progress: Called with every `AuditProgress`; None for no reports.
        command: The command that runs this, which the folder keeps.

    Raises:
        UsageError: A component cannot work with a client, or the folder cannot be written.
    """
    phases = [phase for phase in federation.phases if all(phase in trained.weights for trained in runs)]
    numbers = range(auditing.clients)
    clients = {
        phase: [attacked_client(federation, runs, auditing, phase, number) for number in numbers] for phase in phases
    }
    audits = [
        Audit(
            clients=[clients[phase][number] for phase in phases],
            obfuscations=[obfuscation],
            attacks=auditing.attacks,
            seeds=[number],
            metrics=auditing.metrics,
            controls=auditing.controls,
            images=auditing.images,
        )
        for number in numbers
    ]
    trials = run(Joined(audits=audits), folder, on_progress, command=command)
    names = {phase: [client.name for client in held] for phase, held in clients.items()}
    return judged(trials, names, row_name(federation, str(obfuscation)), target)


def attacked_client(
    federation: Federation, runs: Sequence[FederatedRun], auditing: Auditing, phase: Phase, number: int
) -> Client:
    """Return a client of the federation as it is in the round of a phase, ready to be attacked.

    Args:
        federation: The federation.
        runs: Its training, one for each seed.
        auditing: How updates are attacked.
        phase: The phase.
        number: Number of the client, from 0.
    """
    trained = runs[number % len(runs)]
    at = federation.phases[phase]
    data = federation.data
    held = federation.held(number, at, seed=trained.seed)
    neighbour = (number + 1) % federation.clients
    others = federation.held(neighbour, at, seed=trained.seed) if neighbour != number else None
    # At the start all obfuscations have the same weights, so that their trials share the baseline.
    of = "" if phase == "start" else f" after {trained.obfuscation}"
    return Client(
        with_weights(federation.starts[trained.seed], trained, phase),
        held.images,
        held.labels,
        training=federation.training,
        classes=data.classes,
        class_names=data.class_names,
        evaluation=EvaluationSet(
            decoys=None if data.decoys is None else data.decoys.images,
            decoy_labels=None if data.decoys is None else data.decoys.labels,
            others=others,
        ),
        name=f"client {number + 1}, {phase}{of}",
        model_name=federation.model_name,
        source=data.source,
        weights=federation.given.get("weights", ""),
        normalisation=federation.given.get("normalise", ""),
        notes=federation.notes,
    )


def start_of(federation: Federation) -> list[FederatedRun]:
    """Return runs that have not begun, one for each seed: all that is known of them is the model's weights."""
    return [
        FederatedRun(
            obfuscation=BASELINE,
            seed=seed,
            accuracy={},
            right=[],
            wire_bits=0,
            weights={"start": dict(model.state_dict())},
        )
        for seed, model in federation.starts.items()
    ]


def with_weights(model: Module, trained: FederatedRun, phase: Phase) -> Module:
    """Return a copy of the model with the weights that it had in a phase."""
    found = copy.deepcopy(model)
    found.load_state_dict(dict(trained.weights[phase]))
    return found.eval()


def row_name(federation: Federation, obfuscation: str) -> str:
    """Return the name that reports give an obfuscation: noise of the local training comes before it."""
    training = federation.training
    if not (isinstance(training, MayAddNoise) and training.without_noise()):
        return obfuscation
    return str(training) if obfuscation == BASELINE else f"{training}, then {obfuscation}"


def judged(
    trials: Sequence[Trial], clients: Mapping[Phase, Sequence[str]], obfuscation: str, target: Condition
) -> Leakage:
    """Judge the trials of one obfuscation by the target, all clients of a phase together.

    Args:
        trials: The trials, with those of the baseline.
        clients: Phase -> names of the clients that were attacked in it.
        obfuscation: The obfuscation, as rows name it.
        target: The condition under which the target is missed.
    """
    rows = [row for row in summarise(trials) if row.obfuscation == obfuscation]
    found: dict[Phase, list[Judgement]] = {}
    for phase, names in clients.items():
        here = sorted((row for row in rows if row.client in names), key=lambda row: row.attack)
        found[phase] = [
            judge(target, Pool(rows=tuple(group), together=True)) for _, group in groupby(here, lambda row: row.attack)
        ]
    return Leakage(judgements=found)
