"""The updates of a federation that are attacked, in its first, middle and last round, as one audit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch.nn import Module

from unveil.advice.federation import FederatedRun, Federation, Phase
from unveil.audits.audit import Audit
from unveil.audits.controls import ANOTHER
from unveil.audits.kept_pictures import Kept
from unveil.audits.scoring import MetricSelection
from unveil.audits.task import Task
from unveil.audits.trial import refuse_unattackable
from unveil.clients.client import Client, EvaluationSet
from unveil.core.errors import UnattackableError
from unveil.core.metric import Metric
from unveil.core.protocols import Attack, Obfuscation
from unveil.core.records import BASELINE

Places = frozenset[tuple[Phase, int]]
"""Attacked clients in a phase: the phase, and the client's number from 0."""

NOWHERE: Places = frozenset()


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
        built: dict[str, Mapping[str, Metric]] = {}
        for audit in self.audits:
            yield from audit.tasks(built)

    def unattackable(self) -> dict[str, str]:
        """Name of each client of which a trial has nothing to attack -> why; computes updates and attacks none."""
        found = {}
        for audit in self.audits:
            for client, _, obfuscation, _, seed in replace(audit, attacks=audit.attacks[:1]).trials():
                try:
                    refuse_unattackable(client, obfuscation, seed=seed, controls=audit.controls)
                except UnattackableError as error:
                    found[client.name] = str(error)
        return found


def audit_of(
    federation: Federation,
    runs: Sequence[FederatedRun],
    obfuscation: Obfuscation,
    auditing: Auditing,
    *,
    without: Places = NOWHERE,
) -> Joined:
    """Return the audit of the updates that clients send through one obfuscation.

    Args:
        federation: The federation.
        runs: Its training through this obfuscation, one for each seed.
        obfuscation: The obfuscation.
        auditing: How updates are attacked.
        without: Clients that are left out, because they send nothing that can be attacked.
    """
    models = cache(lambda phase, seed: with_weights(federation.starts[seed], by_seed[seed], phase))
    by_seed = {trained.seed: trained for trained in runs}
    audits = []
    for number in range(auditing.clients):
        trained = runs[number % len(runs)]
        clients = [
            attacked_client(federation, trained, phase, number, model=models(phase, trained.seed))
            for phase in phases_of(federation, runs)
            if (phase, number) not in without
        ]
        if clients:
            audit = Audit(
                clients=clients,
                obfuscations=[obfuscation],
                attacks=auditing.attacks,
                seeds=[number],
                metrics=auditing.metrics,
                controls=auditing.controls,
                images=auditing.images,
            )
            audits.append(audit)
    return Joined(audits=audits)


def phases_of(federation: Federation, runs: Sequence[FederatedRun]) -> list[Phase]:
    """The phases that every training of the federation has reached."""
    return [phase for phase in federation.phases if all(phase in trained.weights for trained in runs)]


def attacked_client(
    federation: Federation, trained: FederatedRun, phase: Phase, number: int, *, model: Module
) -> Client:
    """Return a client of the federation as it is in the round of a phase, ready to be attacked.

    Args:
        federation: The federation.
        trained: Its training.
        phase: The phase.
        number: Number of the client, from 0.
        model: The model before the round of that phase; see `with_weights`.
    """
    at = federation.phases[phase]
    data = federation.data
    held = federation.held(number, at, seed=trained.seed)
    neighbour = (number + 1) % federation.clients
    others = federation.held(neighbour, at, seed=trained.seed) if neighbour != number else None
    return Client(
        model,
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
        name=name_of([trained], phase, number),
        model_name=federation.model_name,
        source=data.source,
        weights=federation.given.get("weights", ""),
        normalisation=federation.given.get("normalise", ""),
        notes=federation.notes,
    )


def name_of(runs: Sequence[FederatedRun], phase: Phase, number: int) -> str:
    """Return the name of an attacked client in results; the number counts from 0."""
    # At the start all obfuscations have the same weights, so that their trials share the baseline.
    return f"client {number + 1}, {phase}" + ("" if phase == "start" else f" after {runs[0].obfuscation}")


def first_client(federation: Federation) -> Client:
    """Return the first client before any round was trained, ready to be attacked."""
    seed, model = next(iter(federation.starts.items()))
    untrained = FederatedRun(obfuscation=BASELINE, seed=seed, accuracy={}, right=[], wire_bits=0, weights={})
    return attacked_client(federation, untrained, "start", 0, model=model)


def with_weights(model: Module, trained: FederatedRun, phase: Phase) -> Module:
    """Return a copy of the model with the weights that it had in a phase."""
    found = copy.deepcopy(model)
    found.load_state_dict(dict(trained.weights[phase]))
    return found.eval()
