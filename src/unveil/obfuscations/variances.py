"""How much random stages add to an entry, and the likelihood of several of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.core.protocols import EntryModel, Misfit
from unveil.core.types import Block
from unveil.core.update import Update
from unveil.obfuscations.likelihoods import penalised
from unveil.obfuscations.quasi_likelihood import quasi_likelihood

LEAST = 0.05
"""Variance taken for true beside that of a stochastic rounding, in squared steps: keeps slopes finite at its levels."""


@dataclass(frozen=True, kw_only=True)
class Variance:
    """Variance of the error of an entry x of a tensor: ``constant + step^2 f (1 - f)``.

    f is the fraction of ``|x| / step``: the variance of a stochastic rounding to the multiples of the step.

    Args:
        constant: The part that does not depend on x, at least 0.
        step: Distance of the levels of a stochastic rounding; 0 for none. A number, or one for each entry.
    """

    constant: float = 0.0
    step: Float[Tensor, "*shape"] | float = 0.0

    def __add__(self, later: Variance) -> Variance:
        """The variance of the sum of two independent errors.

        Of two roundings the coarser one keeps its levels. The other counts with its mean, a sixth of a squared step.
        """
        coarse, fine = (self, later) if _largest(self.step) >= _largest(later.step) else (later, self)
        return Variance(constant=self.constant + later.constant + _mean_square(fine.step) / 6, step=coarse.step)

    @property
    def mean(self) -> float:
        """Roughly its mean over the entries, with a sixth of a squared step for the rounding."""
        return self.constant + _mean_square(self.step) / 6


def total(found: Sequence[Mapping[str, Variance]], names: Sequence[str]) -> dict[str, Variance]:
    """The variance of all errors together, for each tensor."""
    return {name: sum((one[name] for one in found), Variance()) for name in names}


def together(received: Update, variances: Mapping[str, Variance], *, sent_only: bool) -> Misfit:
    """Mean quasi-likelihood of errors with mean zero whose variances add.

    Lowest, in expectation, at the truth whatever the variances are; the better they are known, the more it tells.

    Args:
        received: What came out of the obfuscation.
        variances: Tensor name -> variance of all errors together; a tensor whose variance is 0 is taken for exact.
        sent_only: Judge only the entries that were sent.
    """
    known = {name: _floored(one, received.tensors[name]) for name, one in variances.items()}
    steps = {name: torch.as_tensor(one.step) for name, one in known.items()}
    penalties = {name: partial(_penalty, constant=one.constant) for name, one in known.items()}
    spread = {name: steps[name].to(y.device).expand(y.shape) for name, y in received.tensors.items()}
    return penalised(received, penalties, spread, sent_only=sent_only)


def entry_models(received: Update, variances: Mapping[str, Variance]) -> dict[str, EntryModel]:
    """Each entry as received, weighted by the inverse of the variance that it has at the expected place."""
    return {
        name: partial(_believed, y, _floored(variances[name], y))
        for name, y in received.tensors.items()
        if y.dim() == 2
    }


def _floored(one: Variance, like: Float[Tensor, "*shape"]) -> Variance:
    """The variance with `LEAST` beside that of a rounding, and above what the square of a float32 vanishes at."""
    rounding = LEAST * _largest(one.step) ** 2
    size = float(like.detach().abs().amax()) if like.numel() else 0.0
    return Variance(constant=max(one.constant + rounding, (1e-6 * size) ** 2, 1e-60), step=one.step)


def _penalty(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], step: Float[Tensor, "*#shape"], *, constant: float
) -> Float[Tensor, "*shape"]:
    return quasi_likelihood(x, y, step, constant)


def _believed(
    received: Float[Tensor, "rows columns"], one: Variance, expected: Float[Tensor, "some few"], block: Block
) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
    step = torch.as_tensor(one.step)
    size = (step[block] if step.dim() else step).to(expected.dtype)
    place = (expected / torch.where(size > 0, size, 1.0)).abs()
    fraction = (place - place.floor()) * (size > 0)
    rounding = size.square() * fraction * (1 - fraction)
    return received[block], one.constant / (one.constant + rounding)


def _largest(step: Float[Tensor, "*shape"] | float) -> float:
    if isinstance(step, Tensor):
        return float(step.amax()) if step.numel() else 0.0
    return step


def _mean_square(step: Float[Tensor, "*shape"] | float) -> float:
    if isinstance(step, Tensor):
        return float(step.double().square().mean()) if step.numel() else 0.0
    return step**2
