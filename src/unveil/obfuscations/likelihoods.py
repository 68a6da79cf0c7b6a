"""The parts that observation models are made of: penalties on entries, summed over an update.

A misfit is the mean penalty per judged entry, so that its size does not depend on the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unveil.core.factored import Candidate, Factored, Penalty, entrywise, square_distance
from unveil.core.protocols import Misfit
from unveil.core.types import Tensors
from unveil.core.update import Update
from unveil.obfuscations.numerics import HALVES, LARGE, SMALL, is_extreme, rms


def squared(received: Update, weights: Mapping[str, float] | None = None, *, sent_only: bool = False) -> Misfit:
    """Mean of ``w (x - y)^2``: exact values, or Gaussian noise with ``w = 1 / sigma^2``.

    Args:
        received: What came out of the obfuscation.
        weights: Weight of each tensor; 1 where None.
        sent_only: Judge only the entries that were sent.
    """
    weight = {name: 1.0 if weights is None else weights[name] for name in received.tensors}
    if sent_only:
        penalties = {name: partial(_weighted_square, root=w**0.5) for name, w in weight.items()}
        return penalised(received, penalties, sent_only=True)
    terms = {name: _distance_to(y, weight[name]) for name, y in received.tensors.items()}
    entries = sum(y.numel() for y in received.tensors.values())
    return lambda candidate: _total([term(candidate[n]) for n, term in terms.items()]) / max(entries, 1)


def in_own_units(received: Update) -> dict[str, float]:
    """Weights for `squared` that make it relative: 1 over the mean square of all entries sent, the same for each."""
    return dict.fromkeys(received.tensors, size_sent(received) ** -2)


def size_sent(received: Update) -> float:
    """Root mean square of the entries sent; 1 where they are all zero."""
    counts = {name: received.count_sent(name) for name in received.tensors}
    sizes = {name: rms(y) * (y.numel() / max(counts[name], 1)) ** 0.5 for name, y in received.tensors.items()}
    total = sum(size**2 * counts[name] for name, size in sizes.items())
    return float((total / max(sum(counts.values()), 1)) ** 0.5) or 1.0


def penalised(
    received: Update,
    penalties: Mapping[str, Penalty],
    per_entry: Mapping[str, Float[Tensor, " ..."]] | None = None,
    *,
    sent_only: bool = False,
    unsent_only: bool = False,
) -> Misfit:
    """Mean of ``penalty(x, y)`` or, where `per_entry` is given, ``penalty(x, y, extra)``.

    Args:
        received: What came out of the obfuscation.
        penalties: Tensor name -> penalty; a tensor without one says nothing and is left out.
        per_entry: Tensor name -> a tensor of the same shape for the penalty's third argument.
        sent_only: Judge only the entries that were sent.
        unsent_only: Judge only those that were not; the mean is over all entries nevertheless.
    """
    judged = {name: received.tensors[name] for name in penalties}
    extras: dict[str, tuple[Tensor, ...]] = {name: (per_entry[name],) if per_entry else () for name in judged}
    entries = sum(received.count_sent(name) if sent_only else y.numel() for name, y in judged.items())
    # Half precision and magnitudes whose squares float32 does not hold are judged in a wider type.
    applied = {
        name: partial(_widened, penalties[name]) if y.dtype in HALVES or is_extreme(y) else penalties[name]
        for name, y in judged.items()
    }
    if sent_only or unsent_only:
        for name in list(judged):
            mask = received.sent(name)
            if mask is None and unsent_only:
                del judged[name]
            elif mask is not None:
                extras[name] = (*extras[name], mask if sent_only else ~mask)
                applied[name] = partial(_masked, applied[name])

    def misfit(candidate: Candidate) -> Float[Tensor, ""]:
        terms = [entrywise(applied[name], candidate[name], y, *extras[name]) for name, y in judged.items()]
        return _total(terms) / max(entries, 1)

    return misfit


def stepped(received: Update, penalty: Penalty, steps: Tensors, *, sent_only: bool = False) -> Misfit:
    """Mean of ``penalty(x, y, step)``, for steps of whole tensors or of their entries (`scope.each_step`)."""
    ones = {name: float(step) for name, step in steps.items() if not step.dim()}
    if len(ones) < len(steps):
        every = {n: step.expand(received.tensors[n].shape) for n, step in steps.items()}
        return penalised(received, dict.fromkeys(every, penalty), every, sent_only=sent_only)
    known = {name: partial(_with_step, penalty, step) for name, step in ones.items() if step > 0}
    return penalised(received, known, sent_only=sent_only)


def added(first: Misfit, second: Misfit) -> Misfit:
    """The sum of two misfits, for what two stages of an obfuscation say about different entries."""
    return lambda candidate: first(candidate) + second(candidate)


def _distance_to(
    received: Float[Tensor, "*shape"], weight: float
) -> Callable[[Float[Tensor, " ..."] | Factored], Float[Tensor, ""]]:
    """``weight ||x - received||^2`` as a function of x."""
    root = weight**0.5
    if received.dtype not in HALVES and not is_extreme(received) and SMALL <= root <= LARGE:
        norm = received.square().sum()
        return lambda value: weight * square_distance(value, received, norm)
    # The root is multiplied in before anything is squared, in float64.
    own = received.double() * root
    norm = own.square().sum()
    return lambda value: square_distance(_doubled(value) * root, own, norm)


def _doubled(value: Float[Tensor, "*shape"] | Factored) -> Float[Tensor, "*shape"] | Factored:
    if isinstance(value, Tensor):
        return value.double()
    return Factored(tuple((scale, left.double(), right.double()) for scale, left, right in value.terms))


def _total(terms: list[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """The sum, in the widest type among the terms."""
    if not terms:
        return torch.zeros(())
    total = torch.stack([term.double() for term in terms]).sum()
    return total if any(term.dtype == torch.float64 for term in terms) else total.to(terms[0].dtype)


def _weighted_square(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], root: float) -> Float[Tensor, "*shape"]:
    return ((x - y) * root).square()


def _with_step(
    penalty: Penalty,
    step: float,
    x: Float[Tensor, "*shape"],
    y: Float[Tensor, "*shape"],
    *extra: Shaped[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    return penalty(x, y, step, *extra)


def _masked(
    penalty: Penalty, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *extra_and_mask: Shaped[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    *extra, mask = extra_and_mask
    return penalty(x, y, *extra) * mask


def _widened(
    penalty: Penalty, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], *extra: Shaped[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return penalty(x.double(), y.double(), *extra)
