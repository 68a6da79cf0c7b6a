"""No obfuscation: the baseline that every audit runs beside the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator

from unveil.core.protocols import Misfit, Obfuscation
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import in_own_units, squared


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Send the update as it is. Wire cost: 32 bits a value."""

    name: ClassVar[str] = "none"
    family: ClassVar[Family] = "none"

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Return the update itself; see `Obfuscation`."""
        return update

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """Squared error, relative to the mean square of what was sent: it is exact; see `Obfuscation`."""
        return squared(received, in_own_units(received), sent_only=sent_only)

    @property
    def parts(self) -> tuple[Obfuscation, ...]:
        """No stage at all; see `Composite`."""
        return ()

    __str__ = spec_of
