"""What the fingerprint says: a stage of the obfuscation with its evidence, and all stages together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.obfuscations import parse
from unveil.obfuscations.roles import Sparsifier, atoms


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One stage of an obfuscation.

    Args:
        spec: SPEC of the stage.
        confidence: That the stage is of this family, in [0, 1]; a judgement of the evidence, not a frequency.
        evidence: What was seen, in words and numbers.
        equals: What cannot be told from it, each a SPEC or a sentence with the reason.
    """

    spec: str
    confidence: float
    evidence: str
    equals: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The obfuscation that an update seems to have gone through.

    Args:
        findings: Its stages in the order in which they were applied; none where nothing was found.
        notes: What else was seen, and what could not be looked at, a sentence each.
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> str:
        """SPEC of all stages; `none` where nothing was found."""
        return "+".join(finding.spec for finding in self.findings) or "none"

    @property
    def confidence(self) -> float:
        """That all stages are of the families named, in [0, 1]: the product of those of the findings."""
        return math.prod(finding.confidence for finding in self.findings)

    @property
    def obfuscation(self) -> Obfuscation:
        """The obfuscation, for an attack's `Knowledge`."""
        return parse(self.spec)

    def applied_to(self, received: Update) -> Update:
        """The received update as an attack expects it from this obfuscation: zeros behind a sparsifier were not sent.

        Args:
            received: The update that the fingerprint was taken of.
        """
        if received.support is None and any(isinstance(stage, Sparsifier) for stage in atoms((self.obfuscation,))):
            return replace(received, coding=replace(received.coding, sparse=True))
        return received
