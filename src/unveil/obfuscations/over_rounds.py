"""An obfuscation over several rounds of one client, with or without error feedback, for who sees all that was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from unveil.core.factored import Candidate, dense
from unveil.core.means import mean_of_rounds
from unveil.core.protocols import EntryModel, HasEntryModels, MayRescale, Misfit, Obfuscation
from unveil.core.rounds import Memory
from unveil.core.types import Block, Family, Tensors
from unveil.core.update import Update


@dataclass(frozen=True, kw_only=True)
class OverRounds:
    """The same obfuscation in every round; what comes out is the mean of what was sent, and each round's in `rounds`.

    With error feedback a client keeps what was withheld and adds it to its next update: round r sends
    ``s_r = O(u_r + e_(r-1))`` and keeps ``e_r = u_r + e_(r-1) - s_r``, with ``e_0 = 0``. So what comes into round r is
    ``u_1 + ... + u_r - (s_1 + ... + s_(r-1))``: all that a receiver does not know of the memory are the updates.

    The receiver's candidate m is the mean of the updates of all rounds, and it takes r m for the sum of the first r, or
    without error feedback m for each. That is as good as the updates are alike: exact for the last sum, and where
    nothing is obfuscated, so that the mean itself is known.

    Args:
        stage: The obfuscation.
        count: Number of rounds, at least 2.
        feedback: Whether there is error feedback.

    Reference:
        Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019.
    """

    stage: Obfuscation
    count: int
    feedback: bool

    @property
    def family(self) -> Family:
        """That of the obfuscation."""
        return self.stage.family

    @property
    def scale_unknown(self) -> bool:
        """As of the obfuscation; see `MayRescale`."""
        return isinstance(self.stage, MayRescale) and self.stage.scale_unknown

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Send the same update in every round; see `Obfuscation`."""
        memory = Memory(feedback=self.feedback)
        sent = []
        for _ in range(self.count):
            came = memory.added(update)
            sent.append(self.stage(came, generator=generator))
            memory = memory.after(came, sent[-1])
        return mean_of_rounds(sent)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """The mean over the rounds of the obfuscation's misfits; see `Obfuscation`."""
        if self.is_single(received):
            return self.stage.misfit(received, sent_only=sent_only)
        each = [self.stage.misfit(one, sent_only=sent_only) for one in received.rounds]
        pairs = list(zip(each, sent_before(received), strict=True))

        def misfit(candidate: Candidate) -> Float[Tensor, ""]:
            terms = [one(self._came(candidate, number, before)) for number, (one, before) in enumerate(pairs, 1)]
            return torch.stack(terms).mean()

        return misfit

    def is_single(self, received: Update) -> bool:
        """Whether an update is judged as one of a single round: it has no others, or all arrived exactly."""
        return not received.rounds or self.stage.family == "none"

    def _came(self, candidate: Candidate, number: int, earlier: Tensors) -> Candidate:
        """What came into a round, from 1, if the candidate is the mean of the updates."""
        if not self.feedback or number == 1:
            return candidate
        return {name: dense(value) * number - earlier[name] for name, value in candidate.items()}

    def __str__(self) -> str:
        return str(self.stage)


@dataclass(frozen=True, kw_only=True)
class OverRoundsByEntry:
    """The same for an obfuscation with entry models (`HasEntryModels`).

    Args:
        rounds: The obfuscation over several rounds.
    """

    rounds: OverRounds

    @property
    def family(self) -> Family:
        """See `OverRounds`."""
        return self.rounds.family

    @property
    def scale_unknown(self) -> bool:
        """See `OverRounds`."""
        return self.rounds.scale_unknown

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """See `OverRounds`."""
        return self.rounds(update, generator=generator)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """See `OverRounds`."""
        return self.rounds.misfit(received, sent_only=sent_only)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """The rounds' entry models together, each as certain of the mean as its round is; see `HasEntryModels`."""
        stage = self.rounds.stage
        assert isinstance(stage, HasEntryModels)
        if self.rounds.is_single(received):
            return stage.entry_models(received)
        each, earlier = [stage.entry_models(one) for one in received.rounds], sent_before(received)
        return {
            name: _Together(
                models=[models[name] for models in each],
                earlier=[before[name] for before in earlier],
                feedback=self.rounds.feedback,
            )
            for name in each[0]
        }

    def __str__(self) -> str:
        return str(self.rounds)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Together:
    """The entry models of all rounds as one of the mean of the updates.

    Args:
        models: The entry model of each round.
        earlier: For each round the sum of what was sent before it.
        feedback: Whether what comes into round r is the sum of the first r updates less what was sent before.
    """

    models: Sequence[EntryModel]
    earlier: Sequence[Float[Tensor, "rows columns"]]
    feedback: bool

    def __call__(
        self, expected: Float[Tensor, "some few"], block: Block
    ) -> tuple[Float[Tensor, "some few"], Float[Tensor, "some few"]]:
        """Return targets and weights; see `EntryModel`."""
        total, weights, most = torch.zeros_like(expected), torch.zeros_like(expected), 0.0
        for number, (model, earlier) in enumerate(zip(self.models, self.earlier, strict=True), 1):
            factor = number if self.feedback else 1
            before = earlier[block].to(expected) if self.feedback else torch.zeros_like(expected)
            target, weight = model(expected * factor - before, block)
            # An error of the sum of the first r updates is an r-th as large in the mean.
            weight = weight * factor**2
            total, weights, most = total + weight * (target + before) / factor, weights + weight, most + factor**2
        return torch.where(weights > 0, total / weights.clamp_min(1e-12), expected), weights / most


def sent_before(received: Update) -> list[Tensors]:
    """Return for each round the sum of what was sent before it."""
    found: list[Tensors] = [{name: torch.zeros_like(tensor) for name, tensor in received.tensors.items()}]
    for one in received.rounds[:-1]:
        found.append({name: tensor + one.tensors[name] for name, tensor in found[-1].items()})
    return found


def over_rounds(stage: Obfuscation, count: int, *, feedback: bool) -> OverRounds | OverRoundsByEntry:
    """Return the obfuscation over several rounds, with entry models if it has some."""
    found = OverRounds(stage=stage, count=count, feedback=feedback)
    return OverRoundsByEntry(rounds=found) if isinstance(stage, HasEntryModels) else found
