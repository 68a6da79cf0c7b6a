"""What the stages before an encoder such as PowerSGD make of a candidate: exactly where they can, else in the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Generator

from unveil.core.factored import Candidate, dense
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.composition import ROUNDINGS
from unveil.obfuscations.none import Identity
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.roles import Encoder, Mapped, Rescaler
from unveil.obfuscations.topk import TopK

FUNCTIONS = (*ROUNDINGS, TopK)


def encoder_of(stages: Sequence[Obfuscation]) -> int | None:
    """The place of the first stage that sends other arrays than the tensors; None if there is none."""
    return next((i for i, stage in enumerate(stages) if isinstance(stage, Encoder)), None)


def is_known_function(stage: Obfuscation) -> bool:
    """Whether the attacker can do to a candidate exactly what the stage did to the update."""
    return isinstance(stage, (*FUNCTIONS, Identity)) or (isinstance(stage, Rescaler) and not isinstance(stage, RandomK))


def in_the_mean(stages: Sequence[Obfuscation]) -> Callable[[Candidate], Candidate]:
    """The mean of what the stages send for a candidate; slopes pass a rounding or a choice as if it were not there."""

    def through(candidate: Candidate) -> Candidate:
        for stage in stages:
            if isinstance(stage, RandomK):
                share = 1.0 if stage.unbiased else stage.density
                candidate = {name: value * share for name, value in candidate.items()}
            elif isinstance(stage, Rescaler):
                candidate = stage.rescale(candidate)
            elif isinstance(stage, FUNCTIONS):
                candidate = _straight_through(stage, candidate)
            elif isinstance(stage, Mapped):
                candidate = stage.mapped(candidate, {})
        return candidate

    return through


def _straight_through(stage: Obfuscation, candidate: Candidate) -> Candidate:
    plain = {name: dense(value) for name, value in candidate.items()}
    fixed = {name: value.detach() for name, value in plain.items()}
    sent = stage(Update(fixed), generator=Generator()).tensors
    return {name: value + (sent[name] - fixed[name]) for name, value in plain.items()}
