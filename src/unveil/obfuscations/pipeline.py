"""Several obfuscations one after the other, such as top-k, then QSGD on what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor

from unveil.core import Belief, Family, Misfit, Obfuscation, Shrinking, Telling, Update
from unveil.errors import UsageError
from unveil.obfuscations.none import Identity
from unveil.obfuscations.observation import added
from unveil.thin import Candidate


@runtime_checkable
class Sparsifier(Protocol):
    """A stage that chooses which entries are sent."""

    def unsent(self, received: Update) -> Misfit:
        """What the choice says of the entries that were not sent."""
        ...


@runtime_checkable
class Rescaler(Protocol):
    """A stage that multiplies whole tensors by a factor that the attacker can work out."""

    def rescale(self, candidate: Candidate) -> Candidate:
        """What the stage does to a candidate."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """Apply the stages in order. Wire cost: what the last stage of each kind makes of it.

    The observation model is that of the last stage that changes values, on the entries that the last sparsifier
    chose; what it did not choose is explained by the sparsifier. Candidates are rescaled wherever updates are.

    Args:
        stages: Two or more obfuscations.
    """

    name: ClassVar[str] = "pipeline"
    family: ClassVar[Family] = "pipeline"
    stages: tuple[Obfuscation, ...]

    def __post_init__(self) -> None:
        if len(self.stages) < 2:
            raise UsageError(f"Pipeline: expected at least two stages, got {len(self.stages)}; use the stage itself")

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Apply every stage; see `Obfuscation`."""
        for stage in self.stages:
            update = stage(update, generator=generator)
        return update

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """The last value-changing stage on what was sent, and the sparsifier on the rest; see `Obfuscation`."""
        choosers = [stage for stage in self.stages if isinstance(stage, Sparsifier)]
        rescalers = [stage for stage in self.stages if isinstance(stage, Rescaler)]
        changers = [s for s in self.stages if s not in choosers and s not in rescalers] or [Identity()]
        explained = changers[-1].misfit(received, sent_only=sent_only or bool(choosers))
        if choosers and not sent_only:
            explained = added(explained, choosers[-1].unsent(received))

        def misfit(candidate: Candidate) -> Tensor:
            for stage in rescalers:
                candidate = stage.rescale(candidate)
            return explained(candidate)

        return misfit

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """Those of the last sparsifier, or else of the last stage that has any; see `Telling`."""
        telling = [stage for stage in self.stages if isinstance(stage, Telling)]
        choosers = [stage for stage in telling if isinstance(stage, Sparsifier)]
        return (choosers or telling)[-1].beliefs(received) if telling else {}

    @property
    def loses_scale(self) -> bool:
        """Whether any of the stages does; see `Shrinking`."""
        return any(stage.loses_scale for stage in self.stages if isinstance(stage, Shrinking))

    def __str__(self) -> str:
        """The stages' SPECs joined by `+`."""
        return "+".join(str(stage) for stage in self.stages)
