"""Which stage of a pipeline explains what was received, and what the others make of a candidate before it does.

One stage, or several random ones together, explain the values that were sent; the sparsifier explains the rest: see
`explaining`. The others are put on the candidate: clipping and gains, and every rounding that came first, since the
attacker can do the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.core.factored import Candidate, entrywise, inner
from unveil.core.protocols import MayRescale, Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.groups import Masks
from unveil.obfuscations.numerics import as_factor, energy, share_of
from unveil.obfuscations.roles import (
    Amplifier,
    Budgeted,
    Mapped,
    Moving,
    Quantiser,
    Rescaler,
    Signs,
    Sparsifier,
    Varying,
    is_deterministic,
)
from unveil.obfuscations.variances import Variance

Stages = Sequence[Obfuscation]

FINER = 20  # a stage that moves entries this many times less than another is left out beside it


def changers(stages: Stages) -> list[int]:
    """Places of the stages that change values otherwise than by a factor."""
    return [i for i, s in enumerate(stages) if not isinstance(s, Sparsifier | Rescaler)]


def unknown(stages: Stages) -> list[int]:
    """Places of the stages that change values in a way that the attacker cannot do to a candidate.

    Those from the first random stage on; a rounding before it can be done to the candidate.
    """
    places = changers(stages)
    first = next((at for at, i in enumerate(places) if not is_repeatable(stages[i])), len(places))
    return places[first:]


def is_repeatable(stage: Obfuscation) -> bool:
    """Whether the stage is a function of what comes in which `Mapped.mapped` puts on a candidate."""
    return is_deterministic(stage) and isinstance(stage, Mapped)


def choosers(stages: Stages) -> list[int]:
    """Places of the stages that choose which entries are sent."""
    return [i for i, s in enumerate(stages) if isinstance(s, Sparsifier)]


def explainer(stages: Stages, received: Update) -> int | None:
    """The place of the stage whose misfit explains what was sent; None for the errors of several together.

    - The last stage of which nothing but its misfit is known, if there is one.
    - A sign, if there is one: nothing else says how little is left.
    - A stage that moves entries `FINER` times farther than all others together, while a quantiser's levels are known.
    - The last one, if every other is a rounding that the attacker can do too; or if it is a rounding itself, and the
      others move entries less.
    - Otherwise several random stages matter. Their errors have mean zero, so the likelihood of their sum is lowest at
      the truth, which that of only one of them would not be.
    """
    places = changers(stages)
    strangers = [i for i in places if not isinstance(stages[i], Moving | Signs)]
    signs = [i for i in places if isinstance(stages[i], Signs)]
    if strangers or signs or len(places) < 2:
        found = strangers or signs or places
        return found[-1] if found else None
    *_, last = places
    reaches = {i: _reach(stages[i], received) for i in places}
    total = sum(reaches.values())
    farthest = max(places, key=lambda i: reaches[i])
    stage = stages[farthest]
    gone = farthest != last and isinstance(stage, Quantiser) and not stage.knows_levels(received)
    if reaches[farthest] >= FINER * (total - reaches[farthest]) and not gone:
        return farthest
    if all(is_deterministic(stages[i]) for i in places if i != last):
        return last
    return last if is_deterministic(stages[last]) and 2 * reaches[last] >= total else None


def put_through(stages: Stages, received: Update) -> Callable[[Candidate], Candidate]:
    """What the stages make of a candidate, but for their randomness and for the stage that explains the result.

    Behind a sparsifier or a random stage clipping depends on what the attacker does not know. There the candidate's
    length is the one that explains most of what was received.
    """
    at = explainer(stages, received)
    masks, places = received.masks(), changers(stages)

    def through(candidate: Candidate) -> Candidate:
        sizes = {name: value.shape.numel() for name, value in candidate.items()}
        sparse = noisy = fitted = False
        for i, stage in enumerate(stages):
            if isinstance(stage, Amplifier):
                candidate = stage.rescale(candidate, sizes)
            elif isinstance(stage, Rescaler):
                if _by_values(stage) and (sparse or noisy):
                    fitted = True
                else:
                    candidate = stage.rescale(candidate)
            elif isinstance(stage, Mapped) and not noisy and (at is None or i < at):
                candidate = stage.mapped(candidate, masks if sparse else {})
            if isinstance(stage, Sparsifier):
                sizes, sparse = _sizes(stage, sizes, received), True
            noisy = noisy or (i in places and not is_deterministic(stage))
        return _fitted(candidate, received, masks) if fitted else candidate

    return through


def gains(stages: Stages, received: Update) -> dict[str, float]:
    """By what sparsifiers such as unbiased random-k multiplied each tensor, over all stages."""
    sizes = {name: y.numel() for name, y in received.tensors.items()}
    total = dict.fromkeys(sizes, 1.0)
    for stage in stages:
        if isinstance(stage, Amplifier):
            total = {name: total[name] * gain for name, gain in stage.gains(sizes).items()}
        if isinstance(stage, Sparsifier):
            sizes = _sizes(stage, sizes, received)
    return total


def variance_of(stage: Obfuscation, received: Update) -> Mapping[str, Variance]:
    """The variance of what a stage adds to the entries of each tensor; a rounding's is spread evenly over its reach."""
    if isinstance(stage, Varying):
        return stage.variances(received)
    reach = stage.reach(received) if isinstance(stage, Moving) else dict.fromkeys(received.tensors, 0.0)
    return {name: Variance(constant=own**2 / 3) for name, own in reach.items()}


def _by_values(stage: Rescaler) -> bool:
    """Whether the factor depends on the values that come in."""
    return isinstance(stage, MayRescale) and stage.scale_unknown


def _reach(stage: Obfuscation, received: Update) -> float:
    """How far a stage moves the entries sent, in the root mean square over all tensors."""
    if not isinstance(stage, Moving):
        return 0.0
    reach = stage.reach(received)
    counts = {name: received.count_sent(name) for name in reach}
    return math.sqrt(sum(counts[n] * reach[n] ** 2 for n in reach) / max(sum(counts.values()), 1))


def _sizes(stage: Sparsifier, sizes: Mapping[str, int], received: Update) -> dict[str, int]:
    """How many entries of each tensor a sparsifier sends of those that come in."""
    if isinstance(stage, Budgeted) and stage.scope == "tensor":
        return {name: share_of(stage.density, size) for name, size in sizes.items()}
    sent = {name: received.count_sent(name) for name in sizes}
    if not isinstance(stage, Budgeted):
        return sent
    total, left = share_of(stage.density, sum(sizes.values())), max(sum(sent.values()), 1)
    return {name: round(total * count / left) for name, count in sent.items()}


def _fitted(candidate: Candidate, received: Update, masks: Masks) -> Candidate:
    """The candidate shortened to the length at which it explains most of what was received."""
    products, squares = [], []
    for name, y in received.tensors.items():
        value = candidate[name]
        products.append(inner(value, y).double())
        squares.append(entrywise(_square, value, y, masks[name]).double() if name in masks else energy(value))
    share = sum(products, torch.zeros(())) / sum(squares, torch.zeros(())).clamp_min(1e-60)
    return {n: value * as_factor(share.clamp(0, 1), value) for n, value in candidate.items()}


def _square(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    return (x * mask).square()
