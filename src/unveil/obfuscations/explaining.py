"""The misfit of a pipeline, for candidates that were put through its stages (`composition.put_through`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from unveil.core.protocols import Misfit
from unveil.core.update import Update
from unveil.obfuscations.composition import Stages, changers, choosers, explainer, unknown, variance_of
from unveil.obfuscations.groups import packed
from unveil.obfuscations.intervals import chosen_noise, noise_in_bins
from unveil.obfuscations.likelihoods import added, in_own_units, penalised, squared
from unveil.obfuscations.numerics import rms
from unveil.obfuscations.roles import Binning, Largest, Moving, Noise, Quantiser, Signs, Sparsifier
from unveil.obfuscations.sign import in_own_size, margin, soft_margin
from unveil.obfuscations.variances import Variance, together, total

PROBIT = 1.7
"""A logistic curve that is this much steeper than a normal distribution is nowhere farther from it than 0.01."""


def judged(stages: Stages, received: Update, *, sent_only: bool) -> Misfit:
    """How badly a candidate explains what was received: what was sent, and that the rest was not.

    Args:
        stages: The pipeline's stages (`roles.atoms`).
        received: What came out of it.
        sent_only: Judge only the entries that were sent.
    """
    places, chosen = changers(stages), choosers(stages)
    moved = bounded(stages, received)
    if not sent_only and moved is not None and places and max(places) < min(chosen):
        noise = [stage for i in places if isinstance(stage := stages[i], Noise)]
        top = stages[chosen[-1]]
        if isinstance(top, Largest) and len(noise) == len(places):
            thresholds = top.thresholds(received)
            return chosen_noise(received, _sigmas_before(noise, received, thresholds), thresholds)
    sent = explained(stages, received, sent_only=sent_only or bool(chosen))
    rest = None if sent_only else below(stages, received)
    return sent if rest is None else added(sent, rest)


def explained(stages: Stages, received: Update, *, sent_only: bool) -> Misfit:
    """How badly a candidate that was put through the stages (`put_through`) explains the values that were sent."""
    at, places = explainer(stages, received), changers(stages)
    if at is not None and isinstance(stages[at], Signs):
        return _signs(stages, at, received, sent_only=sent_only)
    if not places:
        return squared(received, in_own_units(received), sent_only=sent_only)
    *others, last = (stages[i] for i in places)
    noise = [stage for stage in others if isinstance(stage, Noise)]
    if isinstance(last, Binning) and noise and noise == others and at in (None, places[-1]):
        return noise_in_bins(received, _sigmas(noise, received), last.bins(received), sent_only=sent_only)
    if at is not None:
        return stages[at].misfit(received, sent_only=sent_only)
    return together(received, combined(stages, received), sent_only=sent_only)


def combined(stages: Stages, received: Update) -> dict[str, Variance]:
    """The variance of what all stages together add to the entries of each tensor.

    A rounding that comes before every random stage adds nothing: it is put on the candidate (`put_through`).
    """
    found = [variance_of(stages[i], received) for i in unknown(stages)]
    return total(found, list(received.tensors))


def below(stages: Stages, received: Update) -> Misfit | None:
    """What is known of the entries that were not sent, None for nothing."""
    places = choosers(stages)
    if not places:
        return None
    chooser = stages[places[-1]]
    if isinstance(chooser, Largest):
        moved = bounded(stages, received)
        return None if moved is None else chooser.unsent(received, moved)
    assert isinstance(chooser, Sparsifier)
    return chooser.unsent(_marked(received)) if len(places) == 1 else None


def bounded(stages: Stages, received: Update) -> dict[str, float] | None:
    """By how much an entry not sent may exceed the smallest one received, for each tensor; None for no bound.

    There is a bound if top-k alone chose, if what was received still has the size of what it chose from, and if it is
    known of every stage how far it moves entries.
    """
    places = choosers(stages)
    if not places or not all(isinstance(stages[i], Moving | Signs) for i in changers(stages)):
        return None
    if len({getattr(stages[i], "scope", None) for i in places}) > 1 or not all(
        isinstance(stages[i], Largest) for i in places
    ):
        return None
    if any(isinstance(s, Signs) and (i < places[-1] or not s.sends_magnitude) for i, s in enumerate(stages)):
        return None
    return {name: _moved(stages, received, name) for name in received.tensors}


def _moved(stages: Stages, received: Update, name: str) -> float:
    found = [stages[i] for i in changers(stages)]
    return sum(stage.reach(received)[name] for stage in found if isinstance(stage, Moving))


def _sigmas(noise: Sequence[Noise], received: Update) -> dict[str, float]:
    """The standard deviation of several noises together."""
    found = total([stage.variances(received) for stage in noise], list(received.tensors))
    return {name: math.sqrt(one.constant) for name, one in found.items()}


def _sigmas_before(noise: Sequence[Noise], received: Update, thresholds: Mapping[str, float]) -> dict[str, float]:
    """The same where top-k came after them, so that the spread of what was sent is not that of all entries.

    That is told from the threshold: a normal distribution leaves known shares beyond each of its standard deviations.
    """
    spreads = {}
    for name, y in received.tensors.items():
        share = received.count_sent(name) / max(y.numel(), 1)
        quantile = float(torch.special.ndtri(torch.tensor(1 - min(share, 0.9) / 2, dtype=torch.float64)))
        spreads[name] = thresholds[name] / quantile
    found = dict.fromkeys(spreads, 0.0)
    for stage in noise:
        own = stage.told_from(spreads)
        found = {name: math.hypot(sigma, own[name]) for name, sigma in found.items()}
    return found


def _marked(received: Update) -> Update:
    """The same with a tiny number for each zero that was sent, for a sparsifier that tells what was sent by that."""
    tensors = {}
    for name, y in received.tensors.items():
        mask = received.sent(name)
        hidden = (y == 0) if mask is None else (y == 0) & mask
        tensors[name] = y.masked_fill(hidden, torch.finfo(y.dtype).tiny) if bool(hidden.any()) else y
    return replace(received, tensors=tensors)


def _signs(stages: Stages, at: int, received: Update, *, sent_only: bool) -> Misfit:
    """The sign's misfit, with what the other stages did to what it says.

    - Noise before it makes signs of small entries uncertain: the margin is in units of the noise.
    - Noise behind it makes what is received uncertain: the sign is weighted by what is left of it.
    - A quantiser makes zeros, which then do not say that the entry was exactly zero.
    - The scale is judged only where it is the mean magnitude of the candidate's own entries that were sent.
    """
    before, behind = ([s for s in part if isinstance(s, Noise)] for part in (stages[:at], stages[at + 1 :]))
    zeros = any(isinstance(stage, Quantiser) for stage in stages)
    if not (before or behind or zeros) and all(i < at for i in choosers(stages)):
        return stages[at].misfit(received, sent_only=sent_only)
    said = _softened(received, behind) if behind else received
    if zeros:
        support = {name: y != 0 for name, y in received.tensors.items()}
        said = replace(said, support=support, coding=replace(received.coding, sparse=True))
    penalties = dict.fromkeys(said.tensors, soft_margin if behind else margin)
    signs = penalised(said, penalties, sent_only=sent_only or zeros)
    sigma = math.hypot(*(stage.sigma or 0.0 for stage in before)) / PROBIT
    relative = math.hypot(*(stage.ratio or 0.0 for stage in before)) / PROBIT
    return lambda candidate: signs(in_own_size(candidate, sigma=sigma, relative=relative))


def _softened(received: Update, noises: Sequence[Noise]) -> Update:
    """What noise leaves of a sign times c: ``tanh(c y / s^2)``, where the received mean square is ``c^2 + s^2``."""
    signs, variances = {}, total([noise.variances(received) for noise in noises], list(received.tensors))
    for name, y in received.tensors.items():
        variance = variances[name].constant
        square = rms(packed(y, received.sent(name))) ** 2
        c = math.sqrt(max(square - variance, square / math.sqrt(max(received.count_sent(name), 1))))
        signs[name] = (y.float() * (c / max(variance, 1e-60))).tanh()
    return replace(received, tensors=signs)
