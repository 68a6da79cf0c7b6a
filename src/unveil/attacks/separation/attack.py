"""unveil's own attack: it separates the batch, decodes each image from its features, and improves it by a search.

docs/method.md has the equations and the sources of the ideas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

from torch import Generator
from torch.nn import Module

from unveil.attacks.labels.inference import infer_labels
from unveil.attacks.matching.loop import blind_guess
from unveil.attacks.separation.confidence import confidence
from unveil.attacks.separation.determined import SearchDetermined
from unveil.attacks.separation.earlier_layer import SeparateEarlierLayer
from unveil.attacks.separation.estimate_gain import EstimateGain
from unveil.attacks.separation.heads.head import NoHeadError, PooledError
from unveil.attacks.separation.learning_rate import ChooseLearningRate
from unveil.attacks.separation.peak_memory import working_bytes
from unveil.attacks.separation.peeled import LONGER, PeelBatch
from unveil.attacks.separation.peeling.errors import CannotPeelError
from unveil.attacks.separation.separating import SeparateBatch
from unveil.attacks.separation.smoothness import ChooseSmoothness
from unveil.attacks.separation.stages import MatchFeatures
from unveil.attacks.separation.state import Conditional, Problem, Stage, State
from unveil.attacks.separation.suspected_copies import TryAsCopies, shortened
from unveil.attacks.separation.tokens.gradients import NoTokensError
from unveil.attacks.separation.tokens.several import DecodeTokens
from unveil.attacks.separation.tokens.stage import ReadTokens
from unveil.attacks.separation.tuning import ClosedGatesTuning, FactorisationTuning, SearchTuning
from unveil.attacks.separation.update_matching import KeepIfExplained, MatchUpdates
from unveil.core.bounds import not_negative, whole
from unveil.core.objectives import checked
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import Reconstruction
from unveil.core.registry import IN_PYTHON_ONLY, spec_of
from unveil.core.spectra import LinAlgError
from unveil.core.update import Update
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The stages of an attack.

    Args:
        tokens: The stages for pictures of a transformer, of which one is run; each raises `NoTokensError` for what it
            cannot read.
        separated: Stages for a batch that can be separated; the first one raises `NoHeadError` if it cannot.
        earlier: Stages for a network that can be separated at an earlier Linear layer only; the first one raises
            `NoHeadError` if it cannot.
        peeled: Stages for a network that pools its last map; the first one raises `CannotPeelError` if it cannot.
        matched: Stages for a batch that cannot be separated.
    """

    tokens: tuple[Stage, ...]
    separated: tuple[Stage, ...]
    earlier: tuple[Stage, ...]
    peeled: tuple[Stage, ...]
    matched: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureInversion:
    """Separate the batch behind the network's Linear layers, then rebuild each image from its own features.

    Pictures of a transformer are read from its tokens, and a network that pools its last map is peeled. If nothing of
    this can be done (more images than equations, no Linear layer, obfuscated pooled features), the result says so, and
    the attack matches updates instead.

    Args:
        steps: Steps of the search over all its stages, 1 to 1,000,000.
        smoothness: Weight of the regulariser, in nats for a slope of one pixel value a pixel; at least 0, and 0
            switches it off. The regulariser is added to the update's negative log-likelihood.
        starts: Number of starts that are tried if updates are matched, 1 to 1,000,000; the search goes on from the one
            that explains the update best.
        factorisation: The constants of the factorisation. Set in Python only.
        search: The constants of the search. Set in Python only.
        closed_gates: The constants of the separation behind a trained head. Set in Python only.

    Raises:
        UsageError: A value outside its range.

    Reference:
        docs/method.md; the separation after Geng et al., Towards General Deep Leakage in Federated Learning, 2021.
    """

    name: ClassVar[str] = "unveil"
    is_rough: ClassVar[bool] = True
    steps: int = 100
    smoothness: float = 12.0
    starts: int = 1
    factorisation: FactorisationTuning = field(default=FactorisationTuning(), metadata=IN_PYTHON_ONLY)
    search: SearchTuning = field(default=SearchTuning(), metadata=IN_PYTHON_ONLY)
    closed_gates: ClosedGatesTuning = field(default=ClosedGatesTuning(), metadata=IN_PYTHON_ONLY)

    def __post_init__(self) -> None:
        whole("FeatureInversion", "steps", self.steps, 1, 1_000_000, "100 is the usual number")
        not_negative("FeatureInversion", "smoothness", self.smoothness, "0 switches it off")
        whole("FeatureInversion", "starts", self.starts, 1, 1_000_000, "1 begins with the grey picture alone")

    @property
    def schedule(self) -> Schedule:
        """The stages of the attack."""
        parts = zip(self.search.learning_rates, self.search.feature_floors, strict=True)
        stages = shared_out(tuple(parts), steps=self.steps, smoothness=self.smoothness, tuning=self.search)
        matched = MatchUpdates.of(self.search, steps=self.steps, smoothness=self.smoothness, starts=self.starts)
        return scheduled(
            SeparateBatch(factorisation=self.factorisation, search=self.search, closed_gates=self.closed_gates),
            stages,
            matched,
            smoothness=self.smoothness,
        )

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


def shared_out(
    parts: Sequence[tuple[float, float]], *, steps: int, smoothness: float, tuning: SearchTuning
) -> tuple[MatchFeatures, ...]:
    """Return stages that match features, with about equally many steps; a stage without a step is left out.

    Args:
        parts: Learning rate and floor of each stage; see `MatchFeatures`.
        steps: Steps of all stages together.
        smoothness: Smoothness of every stage.
        tuning: The constants of the search.
    """
    ends = [steps * k // len(parts) for k in range(len(parts) + 1)]
    return tuple(
        MatchFeatures(steps=end - start, lr=lr, floor=floor, smoothness=smoothness, tuning=tuning)
        for (lr, floor), (start, end) in zip(parts, pairwise(ends), strict=True)
        if end > start
    )


def scheduled(
    separate: SeparateBatch, stages: Sequence[MatchFeatures], matched: MatchUpdates, *, smoothness: float
) -> Schedule:
    """Return the schedule with these stages, in which the gain is estimated again between two that match features.

    Args:
        separate: The first stage for a batch that can be separated.
        stages: The stages after it.
        matched: The only stage for a batch that cannot be separated, and the last one for a transformer's picture.
        smoothness: Smoothness of the attack, for a transformer's picture.
    """
    between = [
        stage for number, match in enumerate(stages) for stage in ((EstimateGain(), match) if number else (match,))
    ]
    tokens = (
        ReadTokens(smoothness=smoothness, refine=matched),
        DecodeTokens.of(matched, factorisation=separate.factorisation),
    )
    peel = PeelBatch(factorisation=separate.factorisation, search=separate.search)
    earlier = SeparateEarlierLayer(search=separate.search)
    longer = [replace(stage, steps=stage.steps * LONGER) for stage in stages]
    further = [SearchDetermined(search=stage) for stage in longer if stage.restorer is None][-1:]
    return Schedule(
        tokens=tokens,
        separated=(separate, TryAsCopies(trial=shortened(stages)), *between),
        earlier=(earlier, *stages),
        peeled=(peel, *(ChooseLearningRate(search=first) for first in longer[:1]), *longer[1:], *further),
        matched=(KeepIfExplained(search=ChooseSmoothness(search=matched)),),
    )


def run_schedule(
    schedule: Schedule,
    model: Module,
    update: Update,
    knowledge: Knowledge,
    *,
    generator: Generator,
    watch: Watch | None,
) -> Reconstruction:
    """Run the stages for a batch that can be separated, or else those for one that cannot; see `Attack`."""
    device = checked(model, update)
    if update.is_zero:
        return blind_guess(knowledge, device)
    notes: list[str] = []
    labels = knowledge.labels
    if labels is None:
        labels, note = infer_labels(model, update, knowledge)
        notes.append(note)
    problem = Problem(
        model=model, update=update, knowledge=knowledge, labels=labels.to(device), generator=generator, watch=watch
    )
    start = State(pictures=blind_guess(knowledge, device).images)
    state, more = first_that_applies(schedule, problem, start)
    notes += more
    if state.refiner is not None:
        notes += state.refiner.notes
    notes += state.notes
    return Reconstruction(
        images=state.pictures,
        labels=problem.labels,
        losses=list(state.losses),
        stop=state.stop,
        notes=tuple(notes),
        confidence=confidence(state.pictures, state.evidence),
        evidence=state.evidence,
    )


def first_that_applies(schedule: Schedule, problem: Problem, start: State) -> tuple[State, list[str]]:
    """Run the first stages of a schedule that apply to the network and the update.

    Args:
        schedule: The stages.
        problem: The data that are the same for every stage.
        start: The state before the first stage.

    Returns:
        The state after the last stage, and sentences that say why the stages before did not apply.
    """
    notes: list[str] = []
    for stage in schedule.tokens:
        try:
            return solved((stage,), problem, start, otherwise=NoTokensError), notes
        except NoTokensError as reason:
            notes += [str(reason)] if str(reason) else []
    is_transformer = bool(notes)
    try:
        return solved(schedule.separated, problem, start, otherwise=NoHeadError), notes
    except PooledError as pooled:
        try:
            return solved(schedule.peeled, problem, start, otherwise=CannotPeelError), notes
        except CannotPeelError as reason:
            why = f"{pooled} {reason} "
    except NoHeadError as reason:
        try:
            return solved(schedule.earlier, problem, start, otherwise=NoHeadError), notes
        except NoHeadError as further:
            why = f"{reason} {further} "
    notes.append(f"{'' if is_transformer else why}The attack matched updates instead.")
    return fold(schedule.matched, problem, start), notes


def solved(stages: Sequence[Stage], problem: Problem, start: State, *, otherwise: type[Exception]) -> State:
    """Run stages that solve equations; arguments as for `fold`.

    Args:
        stages: The stages.
        problem: The data that are the same for every stage.
        start: The state before the first stage.
        otherwise: What is raised instead of an error of linear algebra: the reason why the stages do not apply.
    """
    try:
        return fold(stages, problem, start)
    except LinAlgError:
        raise otherwise("What arrived of the update leaves equations without a solution.") from None


def fold(stages: Sequence[Stage], problem: Problem, state: State) -> State:
    """Run stages one after the other, each on the state that the stage before it returns.

    Args:
        stages: The stages.
        problem: The data that are the same for every stage.
        state: The state before the first stage.

    Returns:
        The state after the last stage.
    """
    for number, stage in enumerate(stages):
        if not _applies(stage, state):
            continue
        left = sum(later.steps for later in stages[number:] if _applies(later, state))
        state = stage(replace(problem, planned=len(state.losses) + left), state)
    return state


def _applies(stage: Stage, state: State) -> bool:
    return not isinstance(stage, Conditional) or stage.applies(state)
