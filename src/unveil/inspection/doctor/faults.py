"""What the doctor says: a fault with its evidence and its fix, and what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""`error`: an audit would fail or be of something else; `warning`: it may be; `note`: it goes on, and knows less."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with a recorded update, or with what its manifest says.

    Args:
        name: Its name, such as `sign`; the keys of `checks.CHECKS` have them all.
        severity: How much of an audit it spoils; see `Severity`.
        evidence: What was seen, in words and numbers.
        fix: What to do, one clause.
        fact: `NAME=VALUE` that repairs an audit, for `--fact`; None where no fact does, or where it is not certain.
        instead: Other causes of the same evidence, a clause each.
    """

    name: str
    severity: Severity
    evidence: str
    fix: str
    fact: str | None = None
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Untold:
    """A fault that cannot be looked for in this update.

    Args:
        name: Name of the fault.
        reason: Why not, and what it would need; one clause.
    """

    name: str
    reason: str


Findings = Iterator[Fault | Untold]
"""What a check yields."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that the doctor says of a recorded update.

    Args:
        faults: What is wrong; the worst first.
        untold: What cannot be told.
    """

    faults: tuple[Fault, ...] = ()
    untold: tuple[Untold, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names of all faults."""
        return frozenset(fault.name for fault in self.faults)

    @property
    def facts(self) -> tuple[str, ...]:
        """`NAME=VALUE` of every fact that repairs an audit."""
        return tuple(dict.fromkeys(fault.fact for fault in self.faults if fault.fact is not None))
