"""What the last layer says: for each class the mean of ``p - [y = class]`` over the batch, times the update's length.

The slope of the cross-entropy with respect to the score of class c is ``p_c - [y = c]`` for each picture, so the
gradient of the last bias is the mean of that, and every row of the last weight a sum of such slopes times features. The
readings come from `attacks/labels/evidence.py`, which weighs bias and rows by what obfuscation and features
leave uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.labels.evidence import class_signals, read, slopes_of
from unveil.attacks.labels.public import public_pictures
from unveil.attacks.labels.rows import ClassRows, read_rows
from unveil.core.errors import UsageError
from unveil.core.network import in_mode, run
from unveil.core.types import Images
from unveil.core.update import Coding, Update
from unveil.inspection.doctor.examined import Examined
from unveil.obfuscations import parse
from unveil.obfuscations.roles import Sparsifier, atoms

SHIFT = 0.25
"""Squared distance of the mean predictions of the client's pictures and of public ones, in variances of a picture."""
LEAST_SPREAD = 1e-3
"""Least standard deviation of a mean prediction: no more is claimed of predictions on other pictures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadEvidence:
    """What arrived of ``p - [y = class]``, beside what the network predicts for public pictures.

    Args:
        slopes: For each class the mean of ``p - [y = class]`` times the length of the update.
        variances: Variance of each that features leave, in squared units of the mean of ``p - [y = class]``; infinite
            where nothing arrived.
        chances: Mean probability of each class for public pictures.
        chance_variances: Variance of the mean probability of the client's pictures about it.
        pictures: Number of pictures behind the slopes.
        drift: Mean share of a picture's prediction that the local steps moved, from 0 to 1.
        moved: Largest length of a weight's change in units of the weight, over several local steps; 0 for one.
    """

    slopes: Float[Tensor, " classes"]
    variances: Float[Tensor, " classes"]
    chances: Float[Tensor, " classes"]
    chance_variances: Float[Tensor, " classes"]
    pictures: int
    drift: float
    moved: float


def head_evidence(examined: Examined) -> HeadEvidence | str:
    """Read the last layer of an update; a clause that says why not if it cannot be read."""
    shape, n = examined.facts.image_shape.value, examined.pictures
    if examined.network is None or shape is None:
        return "it needs the network; name it with --model"
    if not examined.has_weights:
        return "it needs the weights before the round, global/"
    if n is None:
        return "it needs the number of pictures; give --fact examples=8"
    images = examined.normalised(public_pictures(shape))
    sent = {name: -t.float() for name, t in examined.sent.items()}
    try:
        rows = read_rows(examined.network, images, sent, mode=examined.mode, draws=None)
        last = rows.scores if examined.steps == 1 else _scores_after(examined, images)
    except UsageError as error:
        return str(error)
    drift = (last[: len(rows.scores)].double().softmax(1) - rows.scores.double().softmax(1)).cpu()
    if not rows.shapes or not any(bool(sent[name].any()) for name in rows.shapes):
        return "nothing arrived of the layer that gives the class scores"
    return _read(examined, rows, Update(sent), n, drift)


def _scores_after(examined: Examined, images: Images) -> Float[Tensor, "pictures classes"]:
    """Scores of public pictures after local training."""
    assert examined.network is not None
    client = in_mode(examined.network, examined.mode)
    weights = {n: p.detach() + examined.sent[n] for n, p in client.named_parameters() if n in examined.sent}
    with torch.no_grad():
        scores: Tensor = run(client, images, weights, draws=None)
    return scores


def _read(
    examined: Examined, rows: ClassRows, update: Update, n: int, drift: Float[Tensor, "pictures classes"]
) -> HeadEvidence:
    """Read the rows of the last layer; `drift` is how far local training moved each prediction."""
    obfuscation = parse("+".join(_specs(examined)) or "none")
    is_sparse = any(isinstance(stage, Sparsifier) for stage in atoms((obfuscation,)))
    update = Update(update.tensors, coding=Coding(sparse=is_sparse))
    classes = rows.scores.shape[1]
    each = max(1.0, n / classes) / n**2
    slopes = slopes_of(rows)
    noise = {} if examined.is_exact or is_sparse else _noise(rows, update)
    reading = read(rows, update, obfuscation, {name: noise.get(name, 0.0) for name in rows.shapes})
    length = float(rows.of(update.tensors).norm()) / max(float(slopes.mean.norm()), 1e-30)
    for _ in range(2):  # the size of the slopes is needed to weigh them
        signals = class_signals(slopes, reading, max(length, 1e-30) ** 2 * each).first(classes)
        length = float(signals.values.abs().sum()) / 2 or length
    chances = rows.scores.double().softmax(1).cpu()
    variance = chances.var(0)
    return HeadEvidence(
        slopes=signals.values,
        variances=signals.variance / max(length, 1e-30) ** 2,
        chances=chances.mean(0) + drift.mean(0) / 2,
        chance_variances=variance * (1 / n + SHIFT) + LEAST_SPREAD**2 + (drift.mean(0) / 2).square(),
        pictures=n,
        drift=float(drift.abs().sum(1).mean()) / 2,
        moved=_moved(examined) if examined.steps != 1 else 0.0,
    )


def _moved(examined: Examined) -> float:
    """Largest length of a weight's change in units of the weight."""
    before = examined.recording.before
    lengths = [
        float(change.double().norm()) / max(float(before[name].double().norm()), 1e-30)
        for name, change in examined.sent.items()
        if change.dim() >= 2 and name in before
    ]
    return max(lengths, default=0.0)


def _specs(examined: Examined) -> list[str]:
    """Stages of the obfuscation that an observation model can be made of, those of other software left out."""
    try:
        parse(spec := examined.facts.obfuscation.value or examined.obfuscation)
    except UsageError:
        return []
    return [] if spec == "none" else [spec]


def _noise(rows: ClassRows, update: Update) -> dict[str, float]:
    """Variance of the noise in an entry of each tensor: without noise the rows sum to zero over the classes."""
    shares, squares = {}, {}
    for name, y in rows.split(rows.of(update.tensors).double()).items():
        squares[name] = float(y.square().mean())
        shares[name] = float(y.sum(0).square().mean() / y.square().sum(0).mean().clamp_min(1e-300))
    widest = max(shares, key=lambda name: rows.shapes[name].numel())
    return {name: min(max(shares[name], shares[widest]), 1.0) * squares[name] for name in shares}
