"""The likelihood of a class's signal for each number of its pictures, fitted to rehearsals with known numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls
from torch import Tensor

from unveil.core.least_squares import least_squares

TAIL = 6.0  # degrees of freedom of Student's t for the errors: signals of real pictures have more outliers
TRUSTED = 4.0  # with this many signals of k pictures their mean weighs as much as the straight line through all signals


@dataclass(frozen=True, eq=False)
class Signals:
    """The signal of each class, computed from its row of the update; see `evidence`.

    Args:
        values: The signals, in the unit of the update.
        variance: Variance of each signal that generalised least squares predicts; infinite where no entry of the row
            was sent.
        noise: The part of the variance that the obfuscation causes.
    """

    values: Float[Tensor, " classes"]
    variance: Float[Tensor, " classes"]
    noise: Float[Tensor, " classes"]

    @property
    def arrived(self) -> Bool[Tensor, " classes"]:
        """Return for each class whether any entry of its row was sent."""
        return self.variance.isfinite()

    def first(self, classes: int) -> Signals:
        """Return the signals of the first `classes` classes, on the CPU."""
        return Signals(*(t[:classes].cpu() for t in (self.values, self.variance, self.noise)))


@dataclass(frozen=True, eq=False)
class Chance:
    """Probability of each class that the model gives for public pictures.

    Args:
        mean: Mean probability of each class over the pictures, minus the mean over all classes.
        variance: Variance of each class's probability over the pictures.
    """

    mean: Float[Tensor, " classes"]
    variance: Float[Tensor, " classes"]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Mean and variance of the signal of a class that occurs k times, for k = 0 to n.

    Args:
        mean: Mean of the signal for each k, at a class probability of `Chance.mean` = 0.
        lean: Slope of the signal's mean with respect to `Chance.mean`.
        parts: The three coefficients of the variance: a constant, the coefficient of `Signals.variance`, and the
            coefficient of k.
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
        """Compute the negative log-likelihood of k pictures of each class, for k = 0 to n, in nats.

        Args:
            signals: The signals of the received update.
            chance: The class probabilities on public pictures.
            factors: For each case the ratio of the update's length to that of a rehearsal; more than 0.
            sharpness: For each case the ratio of the standard deviation between public pictures to that between the
                pictures of the batch; more than 0.
        """
        longer = factors[:, None, None]
        variance = (longer / sharpness[:, None, None]).square() * self.variances(signals, chance)
        variance = torch.maximum(variance, signals.noise.where(signals.arrived, 0.0)[:, None])
        off = signals.values[:, None] - longer * self.means(chance)
        costs = (TAIL + 1) / 2 * torch.log1p(off.square() / (TAIL * variance))
        return (costs + variance.log() / 2) * signals.arrived[:, None]

    def means(self, chance: Chance) -> Float[Tensor, "classes most"]:
        """Return the mean of each class's signal in rehearsal, for each number of pictures."""
        return self.mean + self.lean * chance.mean[:, None]

    def variances(self, signals: Signals, chance: Chance) -> Float[Tensor, "classes most"]:
        """Return the variance of each class's signal in rehearsal, for each number of pictures."""
        k = torch.arange(len(self.mean), dtype=self.mean.dtype)
        constant, of_signal, each = self.parts
        of_class = of_signal * signals.variance.where(signals.arrived, 0.0) + self.lean**2 * chance.variance
        return constant + of_class[:, None] + each * k


def learn(signals: list[Signals], counts: list[Int[Tensor, " classes"]], chance: Chance, num_images: int) -> Likelihood:
    """Fit the mean and the variance of the signals to rehearsals.

    Args:
        signals: The signals of each rehearsal.
        counts: How often each class occurred in each rehearsal.
        chance: The class probabilities on public pictures.
        num_images: Number of pictures in each rehearsal, n.
    """
    arrived = torch.cat([round_.arrived for round_ in signals])
    s, q = (torch.cat([getattr(r, name) for r in signals])[arrived] for name in ("values", "variance"))
    k = torch.cat(counts)[arrived].double()
    p = chance.mean.repeat(len(signals))[arrived]
    if not len(s):
        return Likelihood(mean=torch.zeros(num_images + 1, dtype=torch.double), lean=0.0, parts=(1.0, 0.0, 0.0))
    sure = 2 / (1 + q / q.median().clamp_min(1e-300))
    weight = sure / (1 + k)  # the signal of a class with more pictures has a larger variance
    design = torch.stack([torch.ones_like(s), k, p], 1)
    root = weight.sqrt()[:, None]
    line = least_squares(design * root, s[:, None] * root, driver="gelsd").squeeze(1)
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
    for _ in range(4):  # the standard deviation of a squared error is proportional to the variance: reweight and repeat
        scale = 1 / (terms @ parts).clamp_min(floor)
        coefficients, _ = nnls((terms * scale[:, None]).numpy(), (rest * scale).numpy())
        parts = torch.from_numpy(coefficients)
        parts[0] += floor
    constant, of_signal, each = parts.tolist()
    return Likelihood(mean=mean, lean=float(line[2]), parts=(constant, of_signal, each))
