"""What a stage may be in a pipeline besides an obfuscation. Every role is optional and told from the stage's members.

A pipeline asks for roles and never for classes, so that a stage from another package is treated like ours. A stage
without any of them changes values in a way that only its own misfit knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from unveil.core.factored import Candidate
from unveil.core.protocols import Misfit, Obfuscation
from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks, Scope
from unveil.obfuscations.variances import Variance


@runtime_checkable
class Composite(Protocol):
    """A stage that is several, one after the other; none at all where it does nothing."""

    @property
    def parts(self) -> Sequence[Obfuscation]:
        """The stages, first to last."""
        ...


@runtime_checkable
class Deterministic(Protocol):
    """A stage that may draw nothing, so that the attacker can do to a candidate what the stage did to the update."""

    @property
    def is_deterministic(self) -> bool:
        """Whether what it sends is a function of what comes in, with these settings."""
        ...


@runtime_checkable
class Sparsifier(Protocol):
    """A stage that chooses which entries are sent."""

    def unsent(self, received: Update) -> Misfit:
        """What the choice says of the entries that were not sent."""
        ...


@runtime_checkable
class ChoosesByChance(Protocol):
    """A sparsifier whose choice does not depend on the values that come in."""

    @property
    def chooses_by_chance(self) -> bool:
        """Whether that is so with these settings."""
        ...


@runtime_checkable
class Bounding(Protocol):
    """A stage behind which the whole update is no longer than a setting says."""

    @property
    def largest_norm(self) -> float:
        """Largest L2 norm over all tensors together."""
        ...


@runtime_checkable
class BoundsEntries(Protocol):
    """A stage behind which every entry by itself is no larger than a setting says."""

    @property
    def largest_entry(self) -> float:
        """Largest magnitude of an entry."""
        ...


@runtime_checkable
class AddsGaussian(Protocol):
    """A stage that adds independent Gaussian noise of one size to every entry sent, and does nothing else."""

    @property
    def gaussian_sigma(self) -> float | None:
        """Standard deviation of the noise; None if it depends on the update."""
        ...


@runtime_checkable
class Budgeted(Sparsifier, Protocol):
    """A sparsifier that sends a fixed share of the entries that come in."""

    @property
    def density(self) -> float:
        """The share, in (0, 1]."""
        ...

    @property
    def scope(self) -> Scope:
        """Whether the share is that of each tensor or that of the whole update."""
        ...


@runtime_checkable
class Largest(Budgeted, Protocol):
    """A sparsifier that sends the entries of largest magnitude."""

    def thresholds(self, received: Update, moved: Mapping[str, float] | None = None) -> Mapping[str, float]:
        """For each tensor a magnitude that no entry exceeds that was not sent.

        Args:
            received: What came out of the pipeline.
            moved: How far other stages may have moved the entries of each tensor; None for not at all.
        """
        ...

    def unsent(self, received: Update, moved: Mapping[str, float] | None = None) -> Misfit:
        """How far the entries that were not sent exceed the thresholds."""
        ...


@runtime_checkable
class Amplifier(Budgeted, Protocol):
    """A sparsifier that may multiply what it sends, so that the mean is right."""

    def gains(self, sizes: Mapping[str, int]) -> Mapping[str, float]:
        """By what the entries sent of each tensor are multiplied; 1 for not at all.

        Args:
            sizes: How many entries of each tensor come in.
        """
        ...

    def rescale(self, candidate: Candidate, sizes: Mapping[str, int] | None = None) -> Candidate:
        """A candidate times the gains; `sizes` is None where all of its entries come in."""
        ...


@runtime_checkable
class Rescaler(Protocol):
    """A stage that multiplies tensors by factors and leaves them otherwise as they are.

    Where the factors depend on the values (`MayRescale.scale_unknown`), the attacker cannot work them out behind a
    stage whose result it does not know.
    """

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
class Varying(Moving, Protocol):
    """A stage that adds an error of mean zero, whose variance the attacker knows or can estimate."""

    def variances(self, received: Update) -> Mapping[str, Variance]:
        """The variance of the error for each tensor, in units of what was received, squared."""
        ...


@runtime_checkable
class Noise(Varying, Protocol):
    """A stage that adds noise of one distribution to every entry sent; either `sigma` or `ratio` is given."""

    @property
    def sigma(self) -> float | None:
        """Standard deviation of the noise."""
        ...

    @property
    def ratio(self) -> float | None:
        """The same over the size of each tensor's own entries, their standard deviation or root mean square."""
        ...

    def told_from(self, spreads: Mapping[str, float]) -> Mapping[str, float]:
        """Standard deviation of the noise by tensor, from the size of entry and noise together (`ratio`)."""
        ...


@runtime_checkable
class Quantiser(Moving, Protocol):
    """A stage that rounds to levels of which one is zero, so that a zero received is not an exact zero."""

    def knows_levels(self, received: Update) -> bool:
        """Whether the distance of its levels travelled with what was received."""
        ...


@runtime_checkable
class Binning(Quantiser, Protocol):
    """A quantiser that rounds to the nearest level, so that every value it sends stands for an interval."""

    def bins(self, received: Update) -> Mapping[str, tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]]:
        """For each tensor the lower and upper ends of the intervals that are rounded to what was received.

        Tensors of the received one's shape and in its units; both ends are equal where nothing is known.
        """
        ...


@runtime_checkable
class Signs(Protocol):
    """A stage that leaves of each entry its sign."""

    @property
    def sends_magnitude(self) -> bool:
        """Whether the mean magnitude of each tensor travels too."""
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


@runtime_checkable
class Withholding(Protocol):
    """A stage that sends some tensors whole and keeps the others back, whatever their values are.

    It stands first in a pipeline. Whoever receives an update sees which tensors did not arrive.
    """

    def arrived(self, received: Update) -> Update:
        """The tensors that were sent, as later stages made them, without those that were kept back."""
        ...


def atoms(stages: Sequence[Obfuscation]) -> tuple[Obfuscation, ...]:
    """The stages with every composite one taken apart."""
    found: tuple[Obfuscation, ...] = ()
    for stage in stages:
        found += atoms(stage.parts) if isinstance(stage, Composite) else (stage,)
    return found


def is_deterministic(stage: Obfuscation) -> bool:
    """Whether the attacker can do to a candidate exactly what the stage did to the update."""
    return isinstance(stage, Deterministic) and stage.is_deterministic
