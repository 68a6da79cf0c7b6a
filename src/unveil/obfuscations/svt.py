"""The sparse vector technique: clamped entries, chosen by a noisy threshold, with noise on those that are sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.core.bounds import not_negative, positive, share
from unveil.core.errors import UsageError
from unveil.core.protocols import EntryModel, Misfit, Obfuscation
from unveil.core.registry import spec_of
from unveil.core.types import Family
from unveil.core.update import Update
from unveil.obfuscations.clamp import Clamp
from unveil.obfuscations.draws import laplace_like
from unveil.obfuscations.groups import each_group
from unveil.obfuscations.noise import Laplace
from unveil.obfuscations.numerics import share_of
from unveil.obfuscations.pipeline import Pipeline, applied
from unveil.obfuscations.randomk import RandomK
from unveil.obfuscations.wire import chosen


@dataclass(frozen=True, kw_only=True)
class SVT:
    """Send a share of the entries, clamped to a limit and with Laplace noise, chosen by a noisy threshold.

    Entries whose noisy magnitude is not above the threshold are asked again, with new noise, until enough are accepted;
    as many as are sent are drawn from those. With default settings the noise on an entry sent is twenty times the
    limit. Wire cost: for each entry sent its value and its position.

    Args:
        fraction: Share of the entries drawn, in (0, 1]; c of them.
        epsilon: Privacy budget of threshold and queries together; greater than 0.
        noise_var: Privacy budget of each value sent, whose noise has the scale ``2 gamma / noise_var``; greater than 0.
        gamma: The limit to which entries are clamped; greater than 0.
        tau: The threshold before its noise, 0 or more.
        replace: Draw the accepted entries with replacement, so that fewer different ones are sent.
        epsilon_threshold: Part of `epsilon` for the threshold; None for what the queries leave, or for one part in
            ``1 + (2 c)^(2/3)``.
        epsilon_query: Part of `epsilon` for the queries; None for what the threshold leaves.

    Raises:
        UsageError: A setting is out of its range, or the two parts are not all of `epsilon`.

    Reference:
        Lyu, Su and Li, Understanding the Sparse Vector Technique for Differential Privacy, VLDB 2017; Li et al.,
        Privacy-Preserving Federated Brain Tumour Segmentation, MLMI 2019 (of weight differences).
    """

    name: ClassVar[str] = "svt"
    family: ClassVar[Family] = "perturb"
    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True
    epsilon_threshold: float | None = None
    epsilon_query: float | None = None

    def __post_init__(self) -> None:
        share("SVT", "fraction", self.fraction, "0.1 sends 10 % of the entries")
        not_negative("SVT", "tau", self.tau, "0 leaves the choice to the noise")
        for field in ("epsilon", "noise_var", "gamma"):
            positive("SVT", field, getattr(self, field), "leave it out for the usual value")
        parts = (self.epsilon_threshold, self.epsilon_query)
        given = [part for part in parts if part is not None]
        for part in given:
            positive("SVT", "each part of epsilon", part, "leave it out for the usual value")
        is_whole = math.isclose(sum(given), self.epsilon, rel_tol=1e-5)
        if (len(given) == 2 and not is_whole) or (len(given) == 1 and sum(given) >= self.epsilon):
            raise UsageError(
                f"SVT: expected epsilon_threshold and epsilon_query to be {self.epsilon:g} together, which is epsilon; "
                "leave one of them out, and the other below epsilon"
            )

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Clamp, choose and perturb; see `Obfuscation`."""
        return applied(self.parts, update, generator)

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """``|clamped x - y|`` of what was sent, in units of the noise's scale; see `Obfuscation`."""
        return Pipeline(self.parts).misfit(received, sent_only=sent_only)

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """What was sent is all that counts; see `HasEntryModels`."""
        return Pipeline(self.parts).entry_models(received)

    @property
    def parts(self) -> tuple[Obfuscation, ...]:
        """Clamping, the choice, and the noise; see `Composite`."""
        scale = 2 * self.gamma / self.noise_var
        choice = NoisyChoice(
            fraction=self.fraction, gamma=self.gamma, tau=self.tau, replace=self.replace, budgets=self.budgets
        )
        return Clamp(limit=self.gamma), choice, Laplace(sigma=scale * math.sqrt(2))

    __str__ = spec_of

    def budgets(self, drawn: int) -> tuple[float, float]:
        """Return the parts of `epsilon` for the threshold and for the queries.

        Args:
            drawn: Number of entries drawn.
        """
        if self.epsilon_threshold is not None:
            return self.epsilon_threshold, self.epsilon - self.epsilon_threshold
        if self.epsilon_query is not None:
            return self.epsilon - self.epsilon_query, self.epsilon_query
        threshold = self.epsilon / (1 + (2 * drawn) ** (2 / 3))
        return threshold, self.epsilon - threshold


@dataclass(frozen=True, kw_only=True)
class NoisyChoice:
    """The choice of the entries that `SVT` sends, of clamped ones.

    Args:
        fraction: Share of the entries drawn; this and the next three as in `SVT`.
        gamma: The limit to which entries were clamped.
        tau: The threshold before its noise.
        replace: Draw the accepted entries with replacement.
        budgets: (entries drawn) -> the privacy budgets of the threshold and of the queries.
    """

    family: ClassVar[Family] = "sparsify"
    fraction: float
    gamma: float
    tau: float
    replace: bool
    budgets: Callable[[int], tuple[float, float]]

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Choose; see `Obfuscation`."""
        keep = partial(self._accepted, generator=generator)
        return chosen(update, each_group(update.tensors, "update", keep, masks=update.masks()))

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """What was sent is exact; what was not says nothing; see `Obfuscation`."""
        return self._by_chance.misfit(received, sent_only=sent_only)

    def unsent(self, received: Update) -> Misfit:
        """Nothing: the threshold that was drawn is not known, and with usual settings noise hides every magnitude."""
        return self._by_chance.unsent(received)

    @property
    def _by_chance(self) -> RandomK:
        return RandomK(density=self.fraction, scope="update")

    def _accepted(self, rows: Float[Tensor, "1 entries"], generator: Generator) -> Bool[Tensor, "1 entries"]:
        sizes = rows.abs().double().reshape(-1).cpu()
        drawn = share_of(self.fraction, len(sizes))
        for_threshold, for_queries = self.budgets(drawn)
        noise = float(laplace_like(sizes[:1], generator)) / math.sqrt(2)
        threshold = self.tau + self.gamma / for_threshold * noise
        # How often an entry is asked until its noisy magnitude reaches the threshold is geometrically distributed.
        short = (threshold - sizes) * for_queries / (2 * self.gamma * drawn)
        chance = torch.where(short > 0, (-short).exp() / 2, 1 - short.clamp(max=0).exp() / 2).clamp(1e-300, 1 - 1e-16)
        waited = -torch.rand(len(sizes), generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
        passes = (waited / -torch.log1p(-chance)).ceil()
        accepted = (passes <= passes.kthvalue(drawn).values).nonzero()[:, 0]
        if self.replace:
            places = torch.randint(len(accepted), (drawn,), generator=generator)
        else:
            places = torch.randperm(len(accepted), generator=generator)[:drawn]
        mask = torch.zeros(len(sizes), dtype=torch.bool)
        mask[accepted[places]] = True
        return mask.to(rows.device).reshape(rows.shape)

    def __str__(self) -> str:
        return f"a noisy choice of {self.fraction:g} of the entries"
