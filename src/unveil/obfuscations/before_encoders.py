"""What the stages before an encoder such as PowerSGD make of a candidate: exactly where they can, else in the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Generator

from unveil.core.factored import Candidate, dense
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.numerics import share_of
from unveil.obfuscations.roles import Amplifier, Encoder, Mapped, Rescaler, is_deterministic


def encoder_of(stages: Sequence[Obfuscation]) -> int | None:
    """The place of the first stage that sends other arrays than the tensors; None if there is none."""
    return next((i for i, stage in enumerate(stages) if isinstance(stage, Encoder)), None)


def in_the_mean(stages: Sequence[Obfuscation]) -> Callable[[Candidate], Candidate]:
    """The mean of what the stages send for a candidate; slopes pass a rounding or a choice as if it were not there."""

    def through(candidate: Candidate) -> Candidate:
        for stage in stages:
            if isinstance(stage, Amplifier):
                shares = _shares_kept(stage, {name: value.shape.numel() for name, value in candidate.items()})
                candidate = {name: value * shares[name] for name, value in candidate.items()}
            elif isinstance(stage, Rescaler):
                candidate = stage.rescale(candidate)
            elif is_deterministic(stage):
                candidate = _straight_through(stage, candidate)
            elif isinstance(stage, Mapped):
                candidate = stage.mapped(candidate, {})
        return candidate

    return through


def _shares_kept(stage: Amplifier, sizes: Mapping[str, int]) -> dict[str, float]:
    """What is left of an entry of each tensor in the mean: the share of the entries sent times their gain."""
    whole = {name: sum(sizes.values()) if stage.scope == "update" else size for name, size in sizes.items()}
    gains = stage.gains(sizes)
    return {name: gains[name] * share_of(stage.density, size) / max(size, 1) for name, size in whole.items()}


def _straight_through(stage: Obfuscation, candidate: Candidate) -> Candidate:
    plain = {name: dense(value) for name, value in candidate.items()}
    fixed = {name: value.detach() for name, value in plain.items()}
    sent = stage(Update(fixed), generator=Generator()).tensors
    return {name: value + (sent[name] - fixed[name]) for name, value in plain.items()}
