"""Which stage of a pipeline explains what was received, and what the others make of a candidate before it does.

One stage explains the values that were sent (`explainer`), the sparsifier explains the rest (`below`). The others are
put on the candidate: clipping and gains, and every rounding that came first, since the attacker can do the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unveil.core import Misfit, Obfuscation, Update
from unveil.obfuscations.clip import Clip
from unveil.obfuscations.half import BF16, FP16
from unveil.obfuscations.noise import Gaussian, Laplace
from unveil.obfuscations.none import Identity
from unveil.obfuscations.numerics import as_factor, energy, rms, share_of
from unveil.obfuscations.observation import penalised, squared
from unveil.obfuscations.qsgd import QSGD
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.roles import Mapped, Moving, Rescaler, Sparsifier
from unveil.obfuscations.scope import packed
from unveil.obfuscations.sign import Sign, in_own_size, soft_margin
from unveil.obfuscations.ternary import Ternary
from unveil.obfuscations.topk import TopK
from unveil.obfuscations.uniform import Uniform
from unveil.thin import Candidate, entrywise, inner

Stages = Sequence[Obfuscation]

FINER = 20  # a stage that moves entries this many times less than another is left out beside it
ROUNDINGS = (Uniform, FP16, BF16, Sign)  # functions of what comes in; any other stage that changes values is random


def changers(stages: Stages) -> list[int]:
    """Places of the stages that change values otherwise than by a factor."""
    return [i for i, s in enumerate(stages) if not isinstance(s, Sparsifier | Rescaler | Identity)]


def choosers(stages: Stages) -> list[int]:
    """Places of the stages that choose which entries are sent."""
    return [i for i, s in enumerate(stages) if isinstance(s, Sparsifier)]


def explainer(stages: Stages, received: Update) -> int | None:
    """The place of the stage whose misfit explains what was sent; None for the squared error.

    - A sign, if there is one: nothing else says how little is left.
    - A stage that moves entries `FINER` times farther than all others together.
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
    if reaches[farthest] >= FINER * (total - reaches[farthest]):
        return farthest
    if all(isinstance(stages[i], ROUNDINGS) for i in places if i != last):
        return last
    return last if isinstance(stages[last], ROUNDINGS) and 2 * reaches[last] >= total else None


def explained(stages: Stages, received: Update, *, sent_only: bool) -> Misfit:
    """How badly a candidate that was put through the stages (`put_through`) explains the values that were sent."""
    at = explainer(stages, received)
    if at is not None and isinstance(stages[at], Sign):
        return _signs(stages, at, received, sent_only=sent_only)
    if at is not None:
        return stages[at].misfit(received, sent_only=sent_only)
    if not changers(stages):
        return Identity().misfit(received, sent_only=sent_only)
    spreads = {name: max(_moved(stages, received, name) / 2, 1e-30) for name in received.tensors}
    return squared(received, {name: spread**-2 for name, spread in spreads.items()}, sent_only=sent_only)


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


def below(stages: Stages, received: Update) -> Misfit | None:
    """What is known of the entries that were not sent, None for nothing."""
    places = choosers(stages)
    if not places:
        return None
    chooser = stages[places[-1]]
    if isinstance(chooser, TopK):
        moved = bounded(stages, received)
        return None if moved is None else chooser.unsent(received, moved)
    assert isinstance(chooser, Sparsifier)
    return chooser.unsent(_marked(received)) if len(places) == 1 else None


def bounded(stages: Stages, received: Update) -> dict[str, float] | None:
    """By how much an entry not sent may exceed the smallest one received, for each tensor; None for no bound.

    There is a bound if top-k alone chose, and if what was received still has the size of what it chose from.
    """
    places = choosers(stages)
    if len({getattr(stages[i], "scope", None) for i in places}) > 1 or not all(
        isinstance(stages[i], TopK) for i in places
    ):
        return None
    if any(isinstance(s, Sign) and (i < places[-1] or not s.scale) for i, s in enumerate(stages)):
        return None
    return {name: _moved(stages, received, name) for name in received.tensors}


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


def _moved(stages: Stages, received: Update, name: str) -> float:
    found = [stages[i] for i in changers(stages)]
    return sum(stage.reach(received)[name] for stage in found if isinstance(stage, Moving))


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
    share = torch.stack(products).sum() / torch.stack(squares).sum().clamp_min(1e-60)
    return {n: value * as_factor(share.clamp(0, 1), value) for n, value in candidate.items()}


def _square(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).square()


def _marked(received: Update) -> Update:
    """The same with a tiny number for each zero that was sent, for a sparsifier that tells what was sent by that."""
    tensors = {}
    for name, y in received.tensors.items():
        mask = received.sent(name)
        hidden = (y == 0) if mask is None else (y == 0) & mask
        tensors[name] = y.masked_fill(hidden, torch.finfo(y.dtype).tiny) if bool(hidden.any()) else y
    return replace(received, tensors=tensors)


def _signs(stages: Stages, at: int, received: Update, *, sent_only: bool) -> Misfit:
    """The sign's misfit, with what the other stages did to what it says."""
    sign = stages[at]
    noises = [stage for stage in stages[at + 1 :] if isinstance(stage, Gaussian | Laplace)]
    if noises:
        signs = {}
        for name, y in received.tensors.items():
            variance = sum((noise.reach(received)[name] / 3) ** 2 for noise in noises)
            size = rms(packed(y, received.sent(name)))
            # What noise leaves of a sign times c is tanh(c y / s^2), where the received mean square is c^2 + s^2.
            c = max(size**2 - variance, size**2 / max(received.count_sent(name), 1) ** 0.5) ** 0.5
            signs[name] = (y.float() * (c / max(variance, 1e-60))).tanh()
        said = replace(received, tensors=signs)
        soft = penalised(said, dict.fromkeys(signs, soft_margin), sent_only=sent_only)
        return lambda candidate: soft(in_own_size(candidate))
    if any(isinstance(stage, QSGD | Ternary | Uniform) for stage in stages):
        # A quantiser made zeros, so they do not say that the entry was exactly zero.
        support = {name: y != 0 for name, y in received.tensors.items()}
        seen = replace(received, support=support, coding=replace(received.coding, sparse=True))
        return sign.misfit(seen, sent_only=True)
    return sign.misfit(received, sent_only=sent_only)
