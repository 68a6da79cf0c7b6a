"""What a class's signal costs for each number of its pictures, learned from rehearsals where the numbers are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

TAIL = 6.0  # degrees of freedom of the errors: real pictures stray further than synthetic ones
TRUSTED = 4.0  # rehearsals of a number of pictures at which their own mean counts as much as the straight line


@dataclass(frozen=True, eq=False)
class Signals:
    """One number a class, told from its row.

    Args:
        values: The signals.
        variance: Their variance as their own weights tell it; infinite where nothing was sent.
        noise: The part of it that is the obfuscation's.
    """

    values: Float[Tensor, " classes"]
    variance: Float[Tensor, " classes"]
    noise: Float[Tensor, " classes"]

    @property
    def known(self) -> Tensor:
        """Of which classes anything was sent."""
        return self.variance.isfinite()

    def first(self, classes: int) -> Signals:
        """Those of the first classes, on the processor."""
        return Signals(*(t[:classes].cpu() for t in (self.values, self.variance, self.noise)))


@dataclass(frozen=True, eq=False)
class Chance:
    """Expected probability of each class, less the mean over the classes, and its variance between pictures."""

    mean: Float[Tensor, " classes"]
    variance: Float[Tensor, " classes"]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Mean and variance of the signal of a class that occurs k times.

    Args:
        mean: For each k from 0 to n.
        lean: How much more the signal of a class is whose expected probability is larger.
        parts: Variance: a constant, a share of the variance that the signal's own weights tell, a share of k.
    """

    mean: Float[Tensor, " most"]
    lean: float
    parts: tuple[float, float, float]

    def costs(
        self,
        signals: Signals,
        chance: Chance,
        factors: Float[Tensor, " cases"],
        sharpness: Float[Tensor, " cases"],
    ) -> Float[Tensor, "cases classes most"]:
        """Negative log-likelihood of each number of pictures.

        Args:
            signals: What was received.
            chance: The expected probabilities.
            factors: In each of several cases, how many times larger the update is than in rehearsal.
            sharpness: In each of them, how many times less the batch's pictures differ than the public ones.
        """
        longer = factors[:, None, None]
        variance = (longer / sharpness[:, None, None]).square() * self.variances(signals, chance)
        variance = torch.maximum(variance, signals.noise.where(signals.known, 0.0)[:, None])
        off = signals.values[:, None] - longer * self.means(chance)
        costs = (TAIL + 1) / 2 * torch.log1p(off.square() / (TAIL * variance))
        return (costs + variance.log() / 2) * signals.known[:, None]

    def means(self, chance: Chance) -> Float[Tensor, "classes most"]:
        """Mean of the signal of each class for each number of pictures, in rehearsal."""
        return self.mean + self.lean * chance.mean[:, None]

    def variances(self, signals: Signals, chance: Chance) -> Float[Tensor, "classes most"]:
        """Its variance."""
        k = torch.arange(len(self.mean), dtype=self.mean.dtype)
        constant, own, each = self.parts
        alone = own * signals.variance.where(signals.known, 0.0) + self.lean**2 * chance.variance
        return constant + alone[:, None] + each * k


def learn(signals: list[Signals], counts: list[Tensor], chance: Chance, num_images: int) -> Likelihood:
    """Fit mean and variance to rehearsals.

    Args:
        signals: Those of each round.
        counts: How often each class occurred.
        chance: The expected probabilities.
        num_images: Pictures a round.
    """
    known = torch.cat([round_.known for round_ in signals])
    s, q = (torch.cat([getattr(r, name) for r in signals])[known] for name in ("values", "variance"))
    k = torch.cat(counts)[known].double()
    p = chance.mean.repeat(len(signals))[known]
    if not len(s):
        return Likelihood(mean=torch.zeros(num_images + 1, dtype=torch.double), lean=0.0, parts=(1.0, 0.0, 0.0))
    sure = 2 / (1 + q / q.median().clamp_min(1e-300))
    weight = sure / (1 + k)  # duplicates vary more
    design = torch.stack([torch.ones_like(s), k, p], 1)
    root = weight.sqrt()[:, None]
    line = torch.linalg.lstsq(design * root, s[:, None] * root, driver="gelsd").solution.squeeze(1)
    off = s - design @ line
    numbers = torch.arange(num_images + 1, dtype=torch.double)
    bins, sums = (torch.zeros_like(numbers).index_add_(0, k.long(), t) for t in (sure, sure * off))
    bend = sums / (bins + TRUSTED)
    seen = (bins > 0).nonzero().squeeze(1)
    bend = torch.from_numpy(np.interp(numbers.numpy(), numbers[seen].numpy(), bend[seen].numpy()))
    mean = line[0] + line[1] * numbers + bend
    rest = (off - bend[k.long()]).square()
    floor = float(line[1].square()) * 1e-6 + 1e-300
    terms = torch.stack([torch.ones_like(k), q, k], 1)
    parts = torch.tensor([float(rest.mean()) + floor, 0.0, 0.0], dtype=torch.double)
    for _ in range(4):  # a squared error varies as much as the variance itself
        scale = 1 / (terms @ parts).clamp_min(floor)
        found, _ = nnls((terms * scale[:, None]).numpy(), (rest * scale).numpy())
        parts = torch.from_numpy(found)
        parts[0] += floor
    constant, own, each = parts.tolist()
    return Likelihood(mean=mean, lean=float(line[2]), parts=(constant, own, each))
