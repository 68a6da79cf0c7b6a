"""What can be told of a received update: its obfuscation, how often each class occurs, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch.nn import Module

from unveil.attacks.labels.inference import infer_labels
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge
from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.inspection.doctor.faults import Diagnosis
from unveil.inspection.fingerprint.findings import Fingerprint
from unveil.inspection.fingerprint.fingerprint import fingerprint

NO_NETWORK = "Label counts need the network: name it with --model."


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was told of a received update.

    Args:
        tensors: How many tensors of parameters arrived.
        entries: How many entries they have together.
        fingerprint: The obfuscation that they seem to have gone through.
        counts: Class index -> how often it occurs in the batch; None where that was not computed.
        label_note: How the counts were inferred, or what is missing for it.
        diagnosis: What is wrong with the recorded update.
    """

    tensors: int
    entries: int
    fingerprint: Fingerprint
    counts: Mapping[int, int] | None
    label_note: str
    diagnosis: Diagnosis = field(default_factory=Diagnosis)


def inspect(
    update: Update, *, before: Tensors | None = None, model: Module | None = None, knowledge: Knowledge | None = None
) -> Inspection:
    """Inspect a received update.

    Args:
        update: The update.
        before: The weights before the round, where the update is a difference of recorded weights; see `fingerprint`.
        model: The client's network with these weights; None if it is not at hand.
        knowledge: What is known of the client, for the labels; its own labels and obfuscation are not used. None for
            nothing.

    Raises:
        UsageError: The update holds no values, or some that are not finite.
    """
    found = fingerprint(update, before=before)
    counts, note = None, NO_NETWORK
    if model is not None and knowledge is not None:
        blind = replace(knowledge, labels=None, obfuscation=found.obfuscation if found.findings else None)
        try:
            labels, note = infer_labels(model, found.applied_to(update), blind)
            counts = dict(sorted(Counter(labels.tolist()).items()))
        except UsageError as error:
            note = f"Label counts cannot be inferred: {error}"
    return Inspection(
        tensors=len(update.tensors),
        entries=sum(t.numel() for t in update.tensors.values()),
        fingerprint=found,
        counts=counts,
        label_note=note,
    )
