"""What several clients obfuscate, each by itself, for who sees only the mean of what they sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.factored import Candidate
from unveil.core.means import mean_of_messages
from unveil.core.protocols import EntryModel, MayRescale, Misfit, Obfuscation
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.composition import changers, variance_of
from unveil.obfuscations.likelihoods import added, in_own_units, squared
from unveil.obfuscations.pipeline import believed
from unveil.obfuscations.roles import BoundsEntries, Encoder, Largest, Moving, Signs, atoms
from unveil.obfuscations.variances import Variance, entry_models, together, total


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanOfEach:
    """The same obfuscation at each of several clients; what comes out is the mean of what they sent.

    The errors of different clients are independent, so with weights w the mean has one of the variance
    ``w_1^2 v_1 + w_2^2 v_2 + ...``, a K-th of that of one client for K alike. Its distribution is taken for Gaussian,
    and the variance of rounding at random, which depends on each client's entry, for that at the entry of the mean.
    An entry that no client sent is in the mean update at most ``w_1 t_1 + w_2 t_2 + ...``, with each client's threshold
    t; one that any client sent is taken for sent by all, although the others may have up to their thresholds there.

    Args:
        stage: The obfuscation of each client.
        clients: Number of clients, 2 or more.
        alike: How many clients of the same weight leave the same variance, ``1 / (w_1^2 + w_2^2 + ...)``.
        variances: Tensor name -> variance of the error of an entry, `alike` times that of the mean.
        thresholds: Tensor name -> largest magnitude of an entry of the mean update that no client sent; empty where
            every entry is sent.
    """

    stage: Obfuscation
    clients: int
    alike: float
    variances: Mapping[str, Variance]
    thresholds: Mapping[str, float]

    @property
    def family(self) -> Family:
        """That of the obfuscation."""
        return self.stage.family

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Return the mean of what comes out if all clients have the same update; see `Obfuscation`."""
        sent = [self.stage(update, generator=generator) for _ in range(self.clients)]
        return mean_of_messages(sent, [1 / self.clients] * self.clients)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """The likelihood of the errors' sum, as if it were Gaussian, and how far others exceed the thresholds."""
        only = sent_only or bool(self.thresholds)
        one = (
            together(received, self.variances, sent_only=only)
            if self._is_noisy
            else squared(received, in_own_units(received), sent_only=only)
        )

        def sent(candidate: Candidate) -> Float[Tensor, ""]:
            return self.alike * one(candidate)

        chooser = _chooser(self.stage)
        if chooser is None or sent_only:
            return sent
        found = chooser.thresholds(received)
        return added(sent, chooser.unsent(received, {name: t - found[name] for name, t in self.thresholds.items()}))

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """Entries that were sent by their variances, the others below the thresholds; see `HasEntryModels`."""
        inner = entry_models(received, self.variances) if self._is_noisy else {}
        if not self.thresholds:
            return inner
        return {
            name: partial(believed, y, received.sent(name), inner.get(name), self.thresholds[name], 1.0)
            for name, y in received.tensors.items()
            if y.dim() == 2
        }

    @property
    def _is_noisy(self) -> bool:
        """Whether what was sent is not exact."""
        return any(one.mean > 0 for one in self.variances.values())

    def __str__(self) -> str:
        return str(self.stage)


def mean_of_each(stage: Obfuscation, messages: Sequence[Update], weights: Sequence[float]) -> MeanOfEach:
    """Return the obfuscation of the mean of some messages.

    Args:
        stage: The obfuscation of each client, of which `has_known_mean` is true.
        messages: What each client sent: how large the error of each is, is told from it.
        weights: Weight of each in the mean; their sum is 1.
    """
    stages, names = atoms([stage]), list(messages[0].tensors)
    alike = 1 / sum(weight**2 for weight in weights)
    variances, thresholds = dict.fromkeys(names, Variance()), dict[str, float]()
    chooser = _chooser(stage)
    for message, weight in zip(messages, weights, strict=True):
        own = total([variance_of(stages[i], message) for i in changers(stages)], names)
        variances = {name: _sum(one, own[name], share=alike * weight**2) for name, one in variances.items()}
        if chooser is not None:
            reaches = [one.reach(message) for one in stages if isinstance(one, Moving)]
            moved = {name: sum(reach[name] for reach in reaches) for name in names}
            for name, t in chooser.thresholds(message, moved).items():
                thresholds[name] = thresholds.get(name, 0.0) + weight * t
    return MeanOfEach(stage=stage, clients=len(messages), alike=alike, variances=variances, thresholds=thresholds)


def _sum(one: Variance, other: Variance, *, share: float) -> Variance:
    """Return a variance and a share of another one, whose squared steps add like the variances."""
    steps = torch.as_tensor(one.step).double().square() + share * torch.as_tensor(other.step).double().square()
    return Variance(constant=one.constant + share * other.constant, step=steps.sqrt())


def has_known_mean(stage: Obfuscation) -> bool:
    """Return whether it is known how far the mean over several clients is off: after noise, rounding and top-k.

    Top-k, or a percentile, comes first. What is cut, scaled or reduced to signs has an error of its own sign in each
    client, which does not average out.
    """
    stages = atoms([stage])
    behind = stages[1:] if _chooser(stage) is not None else stages
    return all(
        isinstance(one, Moving)
        and not isinstance(one, BoundsEntries | Signs | Encoder)
        and not (isinstance(one, MayRescale) and one.scale_unknown)
        for one in behind
    )


def _chooser(stage: Obfuscation) -> Largest | None:
    """The top-k with which the obfuscation begins, if it does."""
    first = next(iter(atoms([stage])), None)
    return first if isinstance(first, Largest) else None
