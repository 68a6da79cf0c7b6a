"""The audit: clients x threat models x obfuscations x attacks x seeds, always with the baseline."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.audits.all_rounds import refuse_rounds
from unveil.audits.controls import checked as check_controls
from unveil.audits.each_client import refuse_each
from unveil.audits.kept_pictures import Kept, check_kept
from unveil.audits.scoring import MetricSelection
from unveil.audits.task import Task
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import arithmetic_of, run_trial, settings_of, shape_of
from unveil.clients.client import Client
from unveil.core.errors import UsageError
from unveil.core.metric import Metric
from unveil.core.protocols import Attack, Enhancer, Obfuscation
from unveil.core.records import BASELINE, Trial
from unveil.core.watch import Watch
from unveil.obfuscations import parse as parse_obfuscation
from unveil.privacy.terms import PrivacyTerms


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Everything that is to be tried. The baseline, `none`, is put first where it is missing.

    Args:
        clients: The clients, each with a name of its own.
        obfuscations: The obfuscations to compare.
        attacks: The attacks to run on each of them.
        seeds: Whole numbers of at least 0; everything is run once for each.
        threat_models: What attackers are granted; everything is run once for each. A threat model that changes nothing
            for a client is skipped for that client.
        metrics: What reconstructions are scored with.
        controls: Names of updates of other pictures, on which every attack is run too; see `controls.CONTROLS`.
        enhancer: The network that changes every attack's pictures afterwards; None for none.
        images: Which pictures the results keep; scores are always those of the pictures themselves.
        author: Who answers for the audit, for the head of its report; empty to name nobody. No result depends on it.
        privacy: The terms on which differential privacy is stated; see `run_trial`.

    Raises:
        UsageError: A list is empty or names something twice, a seed is negative, a control is unknown, or a threat
            model changes nothing for any client.
    """

    clients: Sequence[Client]
    obfuscations: Sequence[Obfuscation]
    attacks: Sequence[Attack]
    seeds: Sequence[int] = (0,)
    threat_models: Sequence[ThreatModel] = (ThreatModel(),)
    metrics: MetricSelection = field(default_factory=MetricSelection)
    controls: Sequence[str] = ()
    enhancer: Enhancer | None = None
    images: Kept = "full"
    author: str = ""
    privacy: PrivacyTerms | None = None

    def __post_init__(self) -> None:
        if BASELINE not in map(str, self.obfuscations):
            object.__setattr__(self, "obfuscations", (parse_obfuscation(BASELINE), *self.obfuscations))
        check_list("clients", [client.name for client in self.clients])
        check_list("obfuscations", [str(obfuscation) for obfuscation in self.obfuscations])
        check_list("attacks", [str(attack) for attack in self.attacks])
        check_list("seeds", list(self.seeds))
        check_list("threat_models", [str(threat_model) for threat_model in self.threat_models])
        for threat_model in self.threat_models:
            if not any(threat_model.is_another(client) for client in self.clients):
                raise UsageError(
                    f"audit: {threat_model}: no client's network draws anything by chance in its mode, so that "
                    "knowing it makes no difference; leave it out of threat_models, or train a client with mode=train"
                    if threat_model.draws
                    else f"audit: {threat_model}: no client trains in several mini-batches, so their order makes no "
                    "difference; leave it out of threat_models, or give a client a training with batch_size"
                )
        check_controls(self.controls)
        check_kept(self.images)
        for client, obfuscation in itertools.product(self.clients, self.obfuscations):
            refuse_rounds(client, obfuscation)
            refuse_each(client, obfuscation)
        if min(self.seeds) < 0:
            raise UsageError(f"audit: expected seeds of at least 0, got {min(self.seeds)}; use 0, 1, 2")

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        return self.clients[0].batch.images.device

    def __len__(self) -> int:
        return sum(1 for _ in self.trials())

    def trials(self) -> Iterator[tuple[Client, ThreatModel, Obfuscation, Attack, int]]:
        """The trials in the order in which they are run.

        A client whose local training adds noise has one more baseline, the update of the same training without noise.
        """
        nothing = next(obfuscation for obfuscation in self.obfuscations if str(obfuscation) == BASELINE)
        for client, threat_model in itertools.product(self.clients, self.threat_models):
            if threat_model.is_another(client):
                if (bare := client.without_noise()) is not None:
                    for attack, seed in itertools.product(self.attacks, self.seeds):
                        yield bare, threat_model, nothing, attack, seed
                for rest in itertools.product(self.obfuscations, self.attacks, self.seeds):
                    yield client, threat_model, *rest

    def tasks(self, built: dict[str, Mapping[str, Metric]] | None = None) -> Iterator[Task]:
        """The trials, each ready to be run.

        Args:
            built: Where the metrics of the client whose trials are run are kept; audits that are run as one share it.
        """
        built = {} if built is None else built  # at a client's first trial, which takes seconds
        for client, threat_model, obfuscation, attack, seed in self.trials():
            yield Task(
                settings=settings_of(client, obfuscation, attack, threat_model, self.enhancer),
                seed=seed,
                run=partial(self._trial, client, threat_model, obfuscation, attack, seed, built),
            )

    def _trial(
        self,
        client: Client,
        threat_model: ThreatModel,
        obfuscation: Obfuscation,
        attack: Attack,
        seed: int,
        built: dict[str, Mapping[str, Metric]],
        watch: Watch | None,
    ) -> Trial:
        if client.name not in built:
            built.clear()  # a gallery is large, and trials of one client follow each other
            built[client.name] = self.metrics(client)
        return run_trial(
            client,
            obfuscation,
            attack,
            seed=seed,
            threat_model=threat_model,
            metrics=built[client.name],
            controls=self.controls,
            enhancer=self.enhancer,
            privacy=self.privacy,
            chance=self.metrics.chance(client),
            watch=watch,
        )

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain JSON; `settings_after` says which audits share a folder."""
        devices = {client.batch.images.device for client in self.clients}
        return {
            "clients": [
                {
                    "name": client.name,
                    "model": client.model_name,
                    "images": str(client.source),
                    "batch": shape_of(client.batch),
                    "classes": client.classes,
                    "training": str(client.training),
                    "pictures": digest_of([client.batch.images, client.batch.labels]),
                    **{f"{key} of the model": value for key, value in client.given.items()},
                    **({} if client.cohort == 1 else {"cohort": client.cohort}),
                    **({"cohort_obfuscates": "each"} if client.each_obfuscates else {}),
                    **client.over_rounds,
                    "weights": digest_of([*client.model.parameters(), *client.model.buffers()]),
                }
                for client in self.clients
            ],
            "obfuscations": [str(obfuscation) for obfuscation in self.obfuscations],
            "attacks": [str(attack) for attack in self.attacks],
            "seeds": list(self.seeds),
            "threat_models": [str(threat_model) for threat_model in self.threat_models],
            "metrics": self.metrics.settings,
            "controls": list(self.controls),
            "arithmetic": {
                str(attack): ", ".join(sorted({arithmetic_of(attack, device) for device in devices}))
                for attack in self.attacks
            },
            **({} if self.enhancer is None else {"enhancer": str(self.enhancer)}),
            **({} if self.images == "full" else {"images": self.images}),
            **({} if self.privacy is None else {"privacy": dataclasses.asdict(self.privacy)}),
        }

    def to(self, device: torch.device) -> Audit:
        """The same audit with every model and batch on the device."""
        return dataclasses.replace(self, clients=[client.to(device) for client in self.clients])


def digest_of(tensors: Iterable[Shaped[Tensor, ...]]) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def check_list(name: str, values: list[Any]) -> None:
    """Raise a `UsageError` if the list is empty or holds a value twice."""
    if not values:
        raise UsageError(f"audit: expected at least one of {name}, got none; add one")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"audit: {value} is given twice in {name}; keep one of them")
