"""A recorded client: what it sent, and what the attacker knows or assumes; its pictures are not needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import Module

from unveil.audits.threat_model import ThreatModel
from unveil.core.guarantees import PrivacyStatement
from unveil.core.protocols import Knowledge
from unveil.core.records import UNKNOWN
from unveil.core.types import Images
from unveil.core.update import BufferChanges, Update


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedClient:
    """What a client of a real federation sent in one round, ready to be attacked.

    Args:
        name: Its name in results.
        model: The network with the weights before local training.
        model_name: The network's name in results.
        update: What the server received.
        digest: SHA-256 of the recording, hexadecimal.
        knowledge: What the attacker knows, or assumes where the recording does not say it.
        truth: The client's pictures, n x c x h x w in [0, 1], for scores; no attack sees them. None if they are not at
            hand.
        weights: Name and checksum of the file of weights, for results; empty for none.
        normalisation: The normalisation in front of the model, for results; empty for none.
        notes: What was assumed, a sentence each.
        privacy: What holds of differential privacy, if the recording says what was done.
    """

    name: str
    model: Module
    model_name: str
    update: Update
    digest: str
    knowledge: Knowledge
    truth: Images | None = None
    weights: str = ""
    normalisation: str = ""
    notes: tuple[str, ...] = ()
    privacy: tuple[PrivacyStatement, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of pictures, channels, height and width."""
        return (self.knowledge.num_images, *self.knowledge.image_shape)

    @property
    def update_device(self) -> torch.device:
        """The device of the update, on which its attacks compute."""
        return next(iter(self.update.tensors.values())).device

    @property
    def training(self) -> str:
        """SPEC of the local training, or `unknown`."""
        return str(self.knowledge.training) if self.knowledge.scale else UNKNOWN

    @property
    def obfuscation(self) -> str:
        """SPEC of the obfuscation, or `unknown`, with what it is taken for."""
        known = self.knowledge
        if known.fingerprinted:
            return f"{UNKNOWN}, taken for {known.obfuscation}"
        return UNKNOWN if known.obfuscation is None else str(known.obfuscation)

    @property
    def threat_model(self) -> ThreatModel:
        """What the attacker does not know."""
        missing = {
            "obfuscation": self.knowledge.obfuscation is None or self.knowledge.fingerprinted,
            "labels": self.knowledge.labels is None,
            "training": not self.knowledge.scale,
        }
        return ThreatModel(tuple(part for part, is_missing in missing.items() if is_missing))

    def to(self, device: torch.device) -> RecordedClient:
        """Return the same client on a device; the model itself is moved there, not copied."""
        labels, buffers = self.knowledge.labels, self.update.buffers
        moved = {name: tensor.to(device) for name, tensor in self.update.tensors.items()}
        changes = buffers and BufferChanges(
            statistics=Update({name: tensor.to(device) for name, tensor in buffers.statistics.tensors.items()}),
            counters={name: tensor.to(device) for name, tensor in buffers.counters.items()},
        )
        return replace(
            self,
            model=self.model.to(device),
            update=replace(self.update, tensors=moved, buffers=changes),
            knowledge=replace(self.knowledge, labels=None if labels is None else labels.to(device)),
            truth=None if self.truth is None else self.truth.to(device),
        )
