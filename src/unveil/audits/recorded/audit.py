"""The audit of recorded updates: clients x attacks x seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from unveil.audits.audit import check_list, digest_of
from unveil.audits.kept_pictures import Kept, check_kept
from unveil.audits.recorded.client import RecordedClient
from unveil.audits.recorded.trial import recorded_settings, run_recorded_trial
from unveil.audits.task import Task
from unveil.core.errors import UsageError
from unveil.core.metric import Metric
from unveil.core.protocols import Attack
from unveil.core.records import Trial
from unveil.core.types import Images
from unveil.core.watch import Watch
from unveil.metrics import CATALOGUE as METRICS
from unveil.metrics.identity import pixels, reidentification


@dataclass(frozen=True, kw_only=True)
class RecordedAudit:
    """Everything that is to be tried on recorded updates.

    Args:
        clients: The recorded clients, each with a name of its own.
        attacks: The attacks to run on each of them.
        seeds: Whole numbers of at least 0; everything is run once for each.
        images: Which pictures the results keep; by default blurred ones, because the pictures are of real people.
        metrics: The metrics by name.
        decoys: Other pictures, among which re-identification looks for each original; None leaves it out.

    Raises:
        UsageError: A list is empty or names something twice, or a seed is negative.
    """

    clients: Sequence[RecordedClient]
    attacks: Sequence[Attack]
    seeds: Sequence[int] = (0,)
    images: Kept = "blurred"
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    decoys: Images | None = None

    def __post_init__(self) -> None:
        check_list("clients", [client.name for client in self.clients])
        check_list("attacks", [str(attack) for attack in self.attacks])
        check_list("seeds", list(self.seeds))
        check_kept(self.images)
        if min(self.seeds) < 0:
            raise UsageError(f"audit: expected seeds of at least 0, got {min(self.seeds)}; use 0, 1, 2")

    @property
    def device(self) -> torch.device:
        """Where attacks are computed."""
        return self.clients[0].update_device

    def __len__(self) -> int:
        return len(self.clients) * len(self.attacks) * len(self.seeds)

    def tasks(self) -> Iterator[Task]:
        """The trials, each ready to be run."""
        for client in self.clients:
            for attack in self.attacks:
                for seed in self.seeds:
                    settings = recorded_settings(client, attack)
                    yield Task(settings=settings, seed=seed, run=partial(self._trial, client, attack, seed))

    def _trial(self, client: RecordedClient, attack: Attack, seed: int, watch: Watch | None) -> Trial:
        metrics = self.metrics
        if self.decoys is not None:
            metrics = {**metrics, **reidentification(self.decoys, pixels)}
        return run_recorded_trial(client, attack, seed=seed, metrics=metrics, watch=watch)

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain JSON."""
        return {
            "recordings": [
                {
                    "name": client.name,
                    "model": client.model_name,
                    "recording": client.digest,
                    "batch": list(client.shape),
                    "training": client.training,
                    "assumed": str(client.knowledge.training),
                    "obfuscation": client.obfuscation,
                    "threat_model": str(client.threat_model),
                    "weights": digest_of([*client.model.parameters(), *client.model.buffers()]),
                    "labels": None if client.knowledge.labels is None else client.knowledge.labels.tolist(),
                    "normalise": client.normalisation,
                    **({"privacy": [asdict(stated) for stated in client.privacy]} if client.privacy else {}),
                    "originals": None if client.truth is None else digest_of([client.truth]),
                }
                for client in self.clients
            ],
            "attacks": [str(attack) for attack in self.attacks],
            "seeds": list(self.seeds),
            "metrics": sorted(self.metrics),
            "decoys": None if self.decoys is None else digest_of([self.decoys]),
            "images": self.images,
        }

    def to(self, device: torch.device) -> RecordedAudit:
        """The same audit with every model and update on the device."""
        return replace(self, clients=[client.to(device) for client in self.clients])
