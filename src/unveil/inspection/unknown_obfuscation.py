"""What an attacker who was not granted the obfuscation takes it for: the fingerprint of the update."""

from __future__ import annotations

from dataclasses import replace

from unveil.core.protocols import Knowledge
from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.inspection.fingerprint.findings import Fingerprint
from unveil.inspection.fingerprint.fingerprint import fingerprint

LEAST_CONFIDENCE = 0.5
"""Confidence from which a fingerprint is believed; below it the update is taken as exact."""


def fingerprinted(update: Update, knowledge: Knowledge, *, before: Tensors | None = None) -> tuple[Update, Knowledge]:
    """Fill in an obfuscation that the attacker does not know by the update's fingerprint.

    Args:
        update: The received update.
        knowledge: What the attacker was granted.
        before: The weights before the round, where the update is a difference of recorded weights; see `fingerprint`.

    Returns:
        The update as an attack expects it from that obfuscation, and the knowledge with it; both as they were where the
        obfuscation is known, or where nothing was found or believed.

    Raises:
        UsageError: The update holds no values, or some that are not finite.
    """
    if knowledge.obfuscation is not None:
        return update, knowledge
    found = fingerprint(update, before=before)
    if not is_believed(found):
        return update, knowledge
    return found.applied_to(update), replace(knowledge, obfuscation=found.obfuscation, fingerprinted=True)


def is_believed(found: Fingerprint) -> bool:
    """Return whether a fingerprint found something and is sure enough of it."""
    return bool(found.findings) and found.confidence >= LEAST_CONFIDENCE
