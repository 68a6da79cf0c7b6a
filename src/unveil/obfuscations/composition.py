"""Which stage of a pipeline explains what was received, and what the others make of a candidate before it does.

One stage explains the values that were sent, the sparsifier explains the rest: see `explaining`. The others are put on
the candidate: clipping and gains, and every rounding that came first, since the attacker can do the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from unveil.core.factored import Candidate, entrywise, inner
from unveil.core.protocols import Obfuscation
from unveil.core.update import Update
from unveil.obfuscations.blockwise import Blockwise8, Float4, NormalFloat4
from unveil.obfuscations.clip import Clip
from unveil.obfuscations.half import BF16, FP16
from unveil.obfuscations.none import Identity
from unveil.obfuscations.numerics import as_factor, energy, share_of
from unveil.obfuscations.qsgd import QSGD
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.roles import Mapped, Moving, Rescaler, Sparsifier
from unveil.obfuscations.sign import Sign
from unveil.obfuscations.ternary import Ternary
from unveil.obfuscations.topk import TopK
from unveil.obfuscations.uniform import Uniform

Stages = Sequence[Obfuscation]

FINER = 20  # a stage that moves entries this many times less than another is left out beside it
ROUNDINGS = (Uniform, FP16, BF16, Sign, Blockwise8, NormalFloat4, Float4)
"""Functions of what comes in; any other stage that changes values is random."""


def changers(stages: Stages) -> list[int]:
    """Places of the stages that change values otherwise than by a factor."""
    return [i for i, s in enumerate(stages) if not isinstance(s, Sparsifier | Rescaler | Identity)]


def choosers(stages: Stages) -> list[int]:
    """Places of the stages that choose which entries are sent."""
    return [i for i, s in enumerate(stages) if isinstance(s, Sparsifier)]


def explainer(stages: Stages, received: Update) -> int | None:
    """The place of the stage whose misfit explains what was sent; None for the error of several.

    - A sign, if there is one: nothing else says how little is left.
    - A stage that moves entries `FINER` times farther than all others together, while a quantiser's levels are known.
    - The last one, if every other is a rounding that the attacker can do too; or if it is a rounding itself, and the
      others move entries less.
    - Otherwise several random stages matter. Their errors are unbiased, so the squared error is lowest at the truth,
      which the likelihood of only one of them would not be.
    """
    places = changers(stages)
    signs = [i for i in places if isinstance(stages[i], Sign)]
    if signs or len(places) < 2:
        found = signs or places
        return found[-1] if found else None
    *_, last = places
    reaches = {i: _reach(stages[i], received) for i in places}
    total = sum(reaches.values())
    farthest = max(places, key=lambda i: reaches[i])
    rounding = isinstance(stages[farthest], QSGD | Ternary)
    gone = rounding and farthest != last and str(stages[farthest]) not in received.side
    if reaches[farthest] >= FINER * (total - reaches[farthest]) and not gone:
        return farthest
    if all(isinstance(stages[i], ROUNDINGS) for i in places if i != last):
        return last
    return last if isinstance(stages[last], ROUNDINGS) and 2 * reaches[last] >= total else None


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
            if isinstance(stage, Clip) and (sparse or noisy):
                fitted = True
            elif isinstance(stage, RandomK):
                candidate = stage.rescale(candidate, sizes)
            elif isinstance(stage, Rescaler):
                candidate = stage.rescale(candidate)
            elif isinstance(stage, Mapped) and not noisy and (at is None or i < at):
                candidate = stage.mapped(candidate, masks if sparse else {})
            if isinstance(stage, Sparsifier):
                sizes, sparse = _sizes(stage, sizes, received), True
            noisy = noisy or (i in places and not isinstance(stage, ROUNDINGS))
        return _fitted(candidate, received, masks) if fitted else candidate

    return through


def gains(stages: Stages, received: Update) -> dict[str, float]:
    """By what unbiased random-k multiplied each tensor, over all stages."""
    sizes = {name: y.numel() for name, y in received.tensors.items()}
    total = dict.fromkeys(sizes, 1.0)
    for stage in stages:
        if isinstance(stage, RandomK):
            total = {name: total[name] * gain for name, gain in stage.gains(sizes).items()}
        if isinstance(stage, Sparsifier):
            sizes = _sizes(stage, sizes, received)
    return total


def _reach(stage: Obfuscation, received: Update) -> float:
    """How far a stage moves the entries sent, in the root mean square over all tensors."""
    if not isinstance(stage, Moving):
        return 0.0
    reach = stage.reach(received)
    counts = {name: received.count_sent(name) for name in reach}
    return math.sqrt(sum(counts[n] * reach[n] ** 2 for n in reach) / max(sum(counts.values()), 1))


def _sizes(stage: Sparsifier, sizes: Mapping[str, int], received: Update) -> dict[str, int]:
    """How many entries of each tensor a sparsifier sends of those that come in."""
    if isinstance(stage, TopK | RandomK) and stage.scope == "tensor":
        return {name: share_of(stage.density, size) for name, size in sizes.items()}
    sent = {name: received.count_sent(name) for name in sizes}
    if not isinstance(stage, TopK | RandomK):
        return sent
    total, left = share_of(stage.density, sum(sizes.values())), max(sum(sent.values()), 1)
    return {name: round(total * count / left) for name, count in sent.items()}


def _fitted(candidate: Candidate, received: Update, masks: Mapping[str, Tensor]) -> Candidate:
    """The candidate shortened to the length at which it explains most of what was received."""
    products, squares = [], []
    for name, y in received.tensors.items():
        value = candidate[name]
        products.append(inner(value, y).double())
        squares.append(entrywise(_square, value, y, masks[name]).double() if name in masks else energy(value))
    share = sum(products, torch.zeros(())) / sum(squares, torch.zeros(())).clamp_min(1e-60)
    return {n: value * as_factor(share.clamp(0, 1), value) for n, value in candidate.items()}


def _square(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).square()
