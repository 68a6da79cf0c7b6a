"""What each row of the last layer's update says of how often its class occurs, in one number a class.

The row of class c is ``g sum_i (p_ic - [y_i = c]) / n h_i + noise``, with h_i the slopes of its score (the features,
and 1 for the bias). Of all weighted sums of its entries with the right mean, generalised least squares takes the
surest:

    s_c = w . row_c     w = (S + V_c)^-1 m / (m^T (S + V_c)^-1 m)

m is the mean slope on public pictures, S how much it varies between them, V_c what the obfuscation adds to each entry.
So nothing depends on the sign of the features; the bias, which varies with no picture, decides where the obfuscation
left it exact, and counts for nothing where it was not sent.
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
from unveil.core.types import Update

COMPONENTS = 16  # directions in which slopes vary that are taken for themselves; the rest counts entry by entry
UNSEEN = 1.0  # variance of real pictures' slopes that synthetic ones do not show, in their tensor's mean variance
EXACT = 1e-8  # variance of an exact entry, in squares of its mean slope: rounding


@dataclass(frozen=True, eq=False)
class Reading:
    """An update's rows as the obfuscation's output tells them.

    Args:
        rows: The entries; zero where nothing is known.
        noise: Variance of their errors; infinity where nothing is known. One line may stand for all classes.
    """

    rows: Float[Tensor, "outputs entries"]
    noise: Float[Tensor, "lines entries"]


def read(rows: ClassRows, update: Update, obfuscation: Obfuscation | None, noise: Mapping[str, float]) -> Reading:
    """What was received of the rows, and how firmly.

    Args:
        rows: The last layer.
        update: What was received.
        obfuscation: The obfuscation, or None if it is not known.
        noise: For each tensor, variance of the obfuscation's error in an entry that was sent.
    """
    matrices = rows.split(rows.of(update.tensors))
    silent, targets = dict.fromkeys(matrices, False), dict(matrices)
    if obfuscation is not None and isinstance(obfuscation, HasEntryModels):
        entry_models = obfuscation.entry_models(Update(matrices, update.coding))
        for name, entry_model in entry_models.items():
            y = matrices[name]
            target, weight = entry_model(torch.zeros_like(y), (slice(None), slice(None)))
            targets[name] = target
            silent[name] = bool((weight[y == 0] == 0).any())  # what was not sent was not chosen by its size either
    if not update.coding.sparse:
        lines = [y.new_full((1, y.shape[1]), noise[name]) for name, y in targets.items()]
        return Reading(torch.cat(list(targets.values()), 1), torch.cat(lines, 1))
    variances = []
    for name, y in targets.items():
        unsent = y == 0
        least = y[~unsent].abs().min() if not bool(unsent.all()) else y.new_tensor(torch.inf)
        small = y.new_tensor(torch.inf) if silent[name] else least.square() / 3  # anything between minus and plus least
        variances.append(torch.where(unsent, small, noise[name]))
    return Reading(torch.cat(list(targets.values()), 1), torch.cat(variances, 1))


@dataclass(frozen=True, eq=False)
class Slopes:
    """Mean slope of the class scores with respect to the rows, and how it varies from picture to picture.

    Args:
        mean: One line for each class, or one for all.
        spread: Directions in which it varies, each as long as its standard deviation.
        rest: Variance of each entry beside that.
    """

    mean: Float[Tensor, "lines entries"]
    spread: Float[Tensor, "directions lines entries"]
    rest: Float[Tensor, "lines entries"]


def slopes_of(rows: ClassRows) -> Slopes:
    """Statistics of the slopes on the public pictures."""
    slopes = rows.slopes.double()
    mean = slopes.mean(0)
    off = (slopes - mean) / len(slopes) ** 0.5
    own = off.square().sum(0)
    flat = off.flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.T)
    keep = vectors[:, -COMPONENTS:].T
    spread = (keep @ flat).reshape(-1, *mean.shape)
    unseen = [part.mean().expand_as(part) for part in rows.split(own).values()]
    rest = (own - spread.square().sum(0)).clamp_min(0) + UNSEEN * torch.cat(unseen, 1)
    return Slopes(mean, spread, rest)


def class_signals(slopes: Slopes, reading: Reading, size: float) -> Signals:
    """``s_c`` of each class.

    Args:
        slopes: The statistics of the slopes.
        reading: What was received.
        size: Variance of the row's own coefficient, in the units of the update: how much the spread counts.
    """
    mean = slopes.mean
    noise = reading.noise.double() / size
    floor = EXACT * mean.square() + EXACT * mean.square().mean()
    if reading.noise.shape[0] == 1:
        weights = _solved(slopes, noise + slopes.rest + floor)
    else:  # each class has its own entries: the spread counts entry by entry
        weights = mean / (noise + slopes.rest + slopes.spread.square().sum(0) + floor)
    share = (weights * mean).sum(1, keepdim=True)
    weights = torch.where(share > 0, weights / share.clamp_min(1e-300), 0.0)
    values = (weights * reading.rows.double()).sum(1)
    noise = torch.where(weights != 0, weights.square() * reading.noise.double(), 0.0).sum(1)
    share = share.squeeze(1).expand_as(values)
    variance = torch.where(share > 0, size / share.clamp_min(1e-300), torch.inf)
    return Signals(values, variance, noise.expand_as(values))


def _solved(slopes: Slopes, diagonal: Tensor) -> Tensor:
    """``(F^T F + diagonal)^-1 mean`` for each line, by the matrix inversion lemma."""
    factors = slopes.spread.transpose(0, 1)  # lines x directions x entries
    scaled = factors / diagonal[:, None]
    small = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device) + scaled @ factors.mT
    right = (scaled @ slopes.mean[..., None]).squeeze(-1)
    correction = torch.linalg.solve(small, right)
    solved: Tensor = slopes.mean / diagonal - (correction[:, None] @ scaled).squeeze(1)
    return solved
