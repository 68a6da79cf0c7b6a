"""unveil's attack with a learned prior: it restores the pictures near the end, and matches the features once more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Generator
from torch.nn import Module

from unveil.attacks.separation.attack import Schedule, run_schedule, scheduled, shared_out
from unveil.attacks.separation.peak_memory import working_bytes
from unveil.attacks.separation.separating import SeparateBatch
from unveil.attacks.separation.tuning import ClosedGatesTuning, FactorisationTuning, SearchTuning
from unveil.attacks.separation.update_matching import MatchUpdates
from unveil.core.bounds import not_negative, positive, whole
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.registry import IN_PYTHON_ONLY, spec_of
from unveil.core.update import Update
from unveil.core.watch import Watch
from unveil.enhancers.learned import FAITHFUL, Learned


@dataclass(frozen=True, kw_only=True)
class RestoredFeatureInversion:
    """Run unveil's attack, restore its pictures by a learned prior, and match the features again near those pictures.

    The last stage matches features, so that the restored pictures agree with the update. If the batch cannot be
    separated this attack is the same as `unveil`, because no stage would bring restored pictures back to the update.

    Args:
        steps: Steps of the search over all its stages, 1 to 1,000,000.
        smoothness: Weight of the regulariser in the stages before the learned prior, in nats for a slope of one pixel
            value a pixel; at least 0.
        trust: Weight of the learned prior, more than 0; see `NearRestored`.
        prior: The learned prior, which is a restorer; see `UsesLearnedPrior`. Set in Python only.
        factorisation: The constants of the factorisation. Set in Python only.
        search: The constants of the search. Set in Python only.
        closed_gates: The constants of the separation behind a trained head. Set in Python only.

    Raises:
        UsageError: A value outside its range.

    Reference:
        docs/priors.md; taking turns after Venkatakrishnan, Bouman and Wohlberg, Plug-and-Play Priors, GlobalSIP 2013.
    """

    name: ClassVar[str] = "unveil+"
    is_rough: ClassVar[bool] = True
    steps: int = 100
    smoothness: float = 12.0
    trust: float = 3.0
    prior: Learned = field(default=FAITHFUL, metadata=IN_PYTHON_ONLY)
    factorisation: FactorisationTuning = field(default=FactorisationTuning(), metadata=IN_PYTHON_ONLY)
    search: SearchTuning = field(default=SearchTuning(), metadata=IN_PYTHON_ONLY)
    closed_gates: ClosedGatesTuning = field(default=ClosedGatesTuning(), metadata=IN_PYTHON_ONLY)

    def __post_init__(self) -> None:
        whole("RestoredFeatureInversion", "steps", self.steps, 1, 1_000_000, "100 is the usual number")
        not_negative("RestoredFeatureInversion", "smoothness", self.smoothness, "0 switches it off")
        positive("RestoredFeatureInversion", "trust", self.trust, "preset unveil has no learned prior")

    @property
    def schedule(self) -> Schedule:
        """The stages of the attack."""
        tuning = self.search
        parts = (
            *zip(tuning.learning_rates, tuning.feature_floors, strict=True),
            (tuning.restored_learning_rate, tuning.restored_feature_floor),
        )
        *first, last = shared_out(parts, steps=self.steps, smoothness=self.smoothness, tuning=tuning)
        stages = (*first, replace(last, restorer=self.prior, trust=self.trust))
        matched = MatchUpdates.of(tuning, steps=self.steps, smoothness=self.smoothness)
        separate = SeparateBatch(factorisation=self.factorisation, search=tuning, closed_gates=self.closed_gates)
        return scheduled(separate, stages, matched, smoothness=self.smoothness)

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

    def working_bytes(self, model: Module, knowledge: Knowledge, *, activations: int) -> int:
        """About how much memory the attack needs; see `EstimatesMemory`."""
        return working_bytes(model, knowledge, activations=activations)

    __str__ = spec_of
