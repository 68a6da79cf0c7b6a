"""What a stage may be in a pipeline besides an obfuscation. Every role is optional and told from the stage's methods.

A stage without any of them changes values in a way that only its own misfit knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from unveil.core.factored import Candidate
from unveil.core.protocols import Misfit, Obfuscation
from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks


@runtime_checkable
class Sparsifier(Protocol):
    """A stage that chooses which entries are sent."""

    def unsent(self, received: Update) -> Misfit:
        """What the choice says of the entries that were not sent."""
        ...


@runtime_checkable
class Composite(Protocol):
    """A stage that is several, one after the other."""

    @property
    def parts(self) -> Sequence[Obfuscation]:
        """The stages, first to last."""
        ...


@runtime_checkable
class Rescaler(Protocol):
    """A stage that multiplies tensors by factors and leaves them otherwise as they are."""

    def rescale(self, candidate: Candidate) -> Candidate:
        """What the stage does to a candidate that comes into it as it is."""
        ...


@runtime_checkable
class Mapped(Protocol):
    """A stage that, but for unbiased randomness, is a function of the values sent which the attacker can apply."""

    def mapped(self, candidate: Candidate, masks: Masks) -> Candidate:
        """The function of a candidate, differentiable: a rounding hands slopes through as if it were not there.

        Args:
            candidate: What comes into the stage.
            masks: Which entries were sent when it came there (`Update.masks`); others are left alone.
        """
        ...


@runtime_checkable
class Moving(Protocol):
    """A stage that moves entries by a distance whose size the attacker knows or can estimate."""

    def reach(self, received: Update) -> Mapping[str, float]:
        """How far it moves an entry of each tensor at most, or hardly ever farther, in units of what was received."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A stage that sends other arrays than the update's tensors, such as thin factors: later stages work on those."""

    def encode(self, update: Update) -> Update:
        """The arrays that travel."""
        ...

    def decode(self, received: Update, like: Tensors) -> Update:
        """The tensors that the receiver works out, with `received` as their `Update.encoded`.

        Args:
            received: The arrays, after later stages.
            like: Tensors of the names, shapes and types that the result has; their values are not looked at.
        """
        ...

    def encoded(self, candidate: Candidate) -> Candidate:
        """The arrays that would travel for a candidate, differentiable."""
        ...


def atoms(stages: Sequence[Obfuscation]) -> tuple[Obfuscation, ...]:
    """The stages with every composite one taken apart."""
    found: tuple[Obfuscation, ...] = ()
    for stage in stages:
        found += atoms(stage.parts) if isinstance(stage, Composite) else (stage,)
    return found
