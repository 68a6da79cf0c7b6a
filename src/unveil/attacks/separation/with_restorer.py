"""unveil's attack with a learned prior in its loop: matching and restoring take turns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Generator
from torch.nn import Module

from unveil.attacks.separation.attack import SCHEDULE, Schedule, run_schedule, scheduled, shared_out
from unveil.core.bounds import not_negative, positive, whole
from unveil.core.protocols import Knowledge
from unveil.core.registry import IN_PYTHON_ONLY, spec_of
from unveil.core.types import Reconstruction, Update, Watch
from unveil.enhancers.learned import FAITHFUL, Learned

LAST = (0.005, 0.05)  # learning rate and floor of the stage behind the restoration; a second one takes decibels away


@dataclass(frozen=True, kw_only=True)
class UnveilPlus:
    """unveil's attack; then the learned prior restores its pictures, and the features are matched once more near them.

    It ends with matching, so that what the prior did is held to what the update says of each picture. Where the batch
    cannot be separated it is `unveil`: nothing there would hold a restored picture to the update.

    Args:
        steps: Steps of the search, over all its stages.
        smoothness: As in `unveil`, for the stages before the learned prior.
        trust: Weight of the learned prior; see `NearRestored`.
        prior: The learned prior, a restorer; see `UsesLearnedPrior`. Set in Python only.

    Reference:
        docs/priors.md; taking turns after Venkatakrishnan, Bouman and Wohlberg, Plug-and-Play Priors, GlobalSIP 2013.
    """

    name: ClassVar[str] = "unveil+"
    is_rough: ClassVar[bool] = True
    steps: int = 100
    smoothness: float = 12.0
    trust: float = 3.0
    prior: Learned = field(default=FAITHFUL, metadata=IN_PYTHON_ONLY)

    def __post_init__(self) -> None:
        whole("UnveilPlus", "steps", self.steps, 1, 1_000_000, "100 is the usual number")
        not_negative("UnveilPlus", "smoothness", self.smoothness, "0 switches it off")
        positive("UnveilPlus", "trust", self.trust, "preset unveil has no learned prior")

    @property
    def schedule(self) -> Schedule:
        """Its stages."""
        *first, last = shared_out((*SCHEDULE, LAST), steps=self.steps, smoothness=self.smoothness)
        stages = (*first, replace(last, restorer=self.prior, trust=self.trust))
        return scheduled(stages, steps=self.steps, smoothness=self.smoothness)

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the attack; see `Attack`."""
        return run_schedule(self.schedule, model, update, knowledge, generator=generator, watch=watch)

    __str__ = spec_of
