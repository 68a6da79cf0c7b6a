"""Class signals: one number for each class that says how often the class occurs, computed from its row of the update.

The row of class c is ``g sum_i (p_ic - [y_i = c]) / n h_i + noise``. Here g is the gain, p_ic the probability that the
model gives class c for picture i, y_i the label of picture i, and h_i the slopes of the score of class c (the features,
and 1 for the bias). The signal is the weighted sum of the row's entries that has the right mean and the smallest
variance, by generalised least squares:

    s_c = w . row_c     w = (S + V_c)^-1 m / (m^T (S + V_c)^-1 m)

m is the mean slope on public pictures, S the covariance of the slopes between pictures, and V_c the variance that the
obfuscation adds to each entry. The signal therefore does not depend on the sign of the features. The slope of the bias
is 1 for every picture, so the bias gets nearly all of the weight if the obfuscation left it exact, and no weight if it
was not sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.labels.likelihood import Signals
from unveil.attacks.labels.rows import ClassRows
from unveil.core.protocols import HasEntryModels, Obfuscation
from unveil.core.spectra import eigh
from unveil.core.update import Update

COMPONENTS = 16  # principal directions of the slopes that S holds exactly; of the others it holds the variances only
UNSEEN = 1.0  # variance of slopes that only real pictures have, in units of the tensor's mean variance
EXACT = 1e-8  # variance of an exact entry by rounding, in units of the squared mean slope


@dataclass(frozen=True, eq=False)
class Reading:
    """The rows that were sent, estimated from the received update, with the variance of each estimate.

    Args:
        rows: The estimated entries, in the unit of the update; zero where the update gives no information.
        noise: Variance of the errors of the entries, in the squared unit of the update; infinite where the update gives
            no information. There is one line for all classes if their variances are equal.
    """

    rows: Float[Tensor, "out entries"]
    noise: Float[Tensor, "lines entries"]


def read(rows: ClassRows, update: Update, obfuscation: Obfuscation | None, noise: Mapping[str, float]) -> Reading:
    """Estimate the rows that were sent, and the variance of each entry's error.

    Args:
        rows: The last layer.
        update: The received update.
        obfuscation: The obfuscation, or None if the attacker does not know it.
        noise: Name of each tensor -> variance of the obfuscation's error in a sent entry, in the squared unit of the
            update.
    """
    matrices = rows.split(rows.of(update.tensors))
    silent, targets = dict.fromkeys(matrices, False), dict(matrices)
    if obfuscation is not None and isinstance(obfuscation, HasEntryModels):
        entry_models = obfuscation.entry_models(Update(matrices, update.coding))
        for name, entry_model in entry_models.items():
            y = matrices[name]
            target, weight = entry_model(torch.zeros_like(y), (slice(None), slice(None)))
            targets[name] = target
            silent[name] = bool((weight[y == 0] == 0).any())  # unsent entries were not chosen by size
    if not update.coding.sparse:
        lines = [y.new_full((1, y.shape[1]), noise[name]) for name, y in targets.items()]
        return Reading(torch.cat(list(targets.values()), 1), torch.cat(lines, 1))
    variances = []
    for name, y in targets.items():
        unsent = y == 0
        least = y[~unsent].abs().min() if not bool(unsent.all()) else y.new_tensor(torch.inf)
        small = y.new_tensor(torch.inf) if silent[name] else least.square() / 3  # uniform between -least and least
        variances.append(torch.where(unsent, small, noise[name]))
    return Reading(torch.cat(list(targets.values()), 1), torch.cat(variances, 1))


@dataclass(frozen=True, eq=False)
class Slopes:
    """Mean and covariance of the slopes of the class scores with respect to the rows, over public pictures.

    The covariance is ``spread^T spread + diag(rest)``.

    Args:
        mean: The mean slope: one line for each class score, or one for all.
        spread: Principal directions of the slopes, each multiplied by its standard deviation.
        rest: Variance of each entry that the principal directions do not hold.
    """

    mean: Float[Tensor, "lines entries"]
    spread: Float[Tensor, "directions lines entries"]
    rest: Float[Tensor, "lines entries"]


def slopes_of(rows: ClassRows) -> Slopes:
    """Compute the mean and the covariance of the slopes over the public pictures."""
    slopes = rows.slopes.double()
    mean = slopes.mean(0)
    off = (slopes - mean) / len(slopes) ** 0.5
    variance = off.square().sum(0)
    flat = off.flatten(1)
    _, vectors = eigh(flat @ flat.T)
    keep = vectors[:, -COMPONENTS:].T
    spread = (keep @ flat).reshape(-1, *mean.shape)
    unseen = [part.mean().expand_as(part) for part in rows.split(variance).values()]
    rest = (variance - spread.square().sum(0)).clamp_min(0) + UNSEEN * torch.cat(unseen, 1)
    return Slopes(mean, spread, rest)


def class_signals(slopes: Slopes, reading: Reading, size: float) -> Signals:
    """Compute the signal ``s_c`` of each class, its variance and its noise.

    Args:
        slopes: Mean and covariance of the slopes.
        reading: The estimated rows.
        size: Variance of the factor by which a slope is multiplied in a row, in the squared unit of the update. It
            scales the covariance of the slopes.
    """
    mean = slopes.mean
    noise = reading.noise.double() / size
    floor = EXACT * mean.square() + EXACT * mean.square().mean()
    if reading.noise.shape[0] == 1:
        weights = _solved(slopes, noise + slopes.rest + floor)
    else:  # the classes differ in their noise: only the variances of the spread are used
        weights = mean / (noise + slopes.rest + slopes.spread.square().sum(0) + floor)
    share = (weights * mean).sum(1, keepdim=True)
    weights = torch.where(share > 0, weights / share.clamp_min(1e-300), 0.0)
    values = (weights * reading.rows.double()).sum(1)
    noise = torch.where(weights != 0, weights.square() * reading.noise.double(), 0.0).sum(1)
    share = share.squeeze(1).expand_as(values)
    variance = torch.where(share > 0, size / share.clamp_min(1e-300), torch.inf)
    return Signals(values, variance, noise.expand_as(values))


def _solved(slopes: Slopes, diagonal: Float[Tensor, "lines entries"]) -> Float[Tensor, "lines entries"]:
    """Compute ``(spread^T spread + diagonal)^-1 mean`` for each line, by the matrix inversion lemma."""
    factors = slopes.spread.transpose(0, 1)  # lines x directions x entries
    scaled = factors / diagonal[:, None]
    small = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device) + scaled @ factors.mT
    right = (scaled @ slopes.mean[..., None]).squeeze(-1)
    correction = torch.linalg.solve(small, right)
    solved: Tensor = slopes.mean / diagonal - (correction[:, None] @ scaled).squeeze(1)
    return solved
