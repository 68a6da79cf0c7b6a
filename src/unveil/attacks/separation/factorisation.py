"""Separate a batch into the features of its single images, from the gradient of the Linear layer behind them.

The gradient of the head's first weight is ``G = gain * D^T A``. The errors D (images x out) are computed from the
features A (images x in) and the public head. So A and D are computed from each other in turns:

    A -> D = errors of the head at A -> A = (D D^T)^-1 D G / gain -> ...

Each feature is a mean over as many equations as the layer has outputs, so the features have less noise than the update.
Once there are pictures, whose features A(x) are nearly right, D is *read* from the update by least squares. That is
more exact than computing D from noisy features, because ReLU's gates are zero or one: the result is only rounded.

Reference:
    The two thin factors: Geng et al., Towards General Deep Leakage in Federated Learning, 2021; sparse errors of ReLU
    as a key: Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS 2024. Weights
    by the obfuscation, gates read from the update, certainty: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.head_descent import Unknown, descend_head
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.inner_maps import InnerEstimate
from unveil.attacks.separation.relu_patterns import find_patterns
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.weighted_lstsq import (
    CHUNK,
    READ,
    energy_of,
    explained,
    ridged,
    solve,
    solve_weighted,
)
from unveil.core.factored import Factored
from unveil.core.protocols import EntryModel
from unveil.core.types import Block

SETTLED = 1e-15  # relative change of the features from turn to turn that is rounding, in float64


@dataclass(frozen=True, eq=False)
class FeatureEstimate:
    """The features of single images, with the covariance of their errors.

    Args:
        features: The estimated features, one row for each image.
        errors: The errors D times the gain, so that ``G = errors^T features``.
        covariance: Covariance between the images of the errors that `features` have: one matrix for each feature, or
            one for all features.
        residual: Share of the gradient's energy that the product does not explain, 0 to 1; noise and wrong errors
            cause it.
        inner: Maps that the body computes on the way to the features, known besides these.
    """

    features: Float[Tensor, "n features"]
    errors: Float[Tensor, "n out"]
    covariance: Float[Tensor, "one_or_features n n"]
    residual: float
    inner: tuple[InnerEstimate, ...] = ()

    @property
    def variances(self) -> Float[Tensor, "one_or_features n"]:
        """Variance of the errors of each image's features; a copy, which does not keep the covariances alive."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).clone()

    @property
    def noise(self) -> float:
        """Mean variance of a feature's error, over the images whose errors are not all zero, or over all images."""
        variances, known = self.variances, (self.errors != 0).any(1)
        return float(variances[:, known].mean() if bool(known.any()) else variances.mean())


def separate(
    errors: Float[Tensor, "n out"],
    gradient: Float[Tensor, "out features"],
    *,
    guess: Float[Tensor, "n features"] | None = None,
    entry_model: EntryModel | None = None,
    ridge: float = 1e-6,
) -> FeatureEstimate:
    """Estimate the features from known errors, by least squares with the weights of the obfuscation.

    Args:
        errors: The errors D times the gain.
        gradient: The received gradient of the head's first weight.
        guess: Features of the present pictures, from which the entry model computes what it expects; None for none.
        entry_model: The entry model of the gradient; None if all entries are equally certain.
        ridge: Ridge of the solve, in units of the mean eigenvalue of ``D D^T``, which is weighted for each feature if
            there is an entry model.
    """
    if entry_model is None or guess is None:
        return _evenly(errors, gradient, ridge)
    return _weighted(errors, guess, entry_model, ridge)


def _evenly(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"], ridge: float) -> FeatureEstimate:
    """Estimate the features by least squares in which all entries of the gradient have the same weight."""
    gram = errors @ errors.T
    correlations = errors @ gradient
    features = torch.linalg.solve(ridged(gram, ridge), correlations)
    energy = energy_of(gradient)
    left = max(energy - float((features * (2 * correlations - gram @ features)).sum(dtype=torch.float64)), 0.0)
    equations = gradient.shape[0]
    variance = left / gradient.numel() / max(1 - len(errors) / equations, 1 / equations)
    covariance = variance * torch.linalg.inv(ridged(gram, 1e-6))
    return FeatureEstimate(features, errors, covariance[None], left / max(energy, 1e-300))


def _weighted(
    errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"], entry_model: EntryModel, ridge: float
) -> FeatureEstimate:
    """Estimate the features by least squares with the targets and the weights of an entry model."""
    solution = solve_weighted(errors, guess, entry_model, ridge=ridge, chunk=CHUNK)
    n, out = errors.shape
    variance = solution.misfit / max(1 - n / out, 1 / out)
    even = solution.grams.mean(0, keepdim=True)
    covariance = solution.grams  # replaced in place: for many images they are as large as the update
    for some in torch.split(covariance, CHUNK):
        torch.mul(torch.linalg.inv(ridged(some, 1e-4) + 1e-6 * even), variance, out=some)
    return FeatureEstimate(solution.values, errors, covariance, solution.residual)


def read_errors(
    features: Float[Tensor, "n features"],
    gradient: Float[Tensor, "out features"] | Factored,
    *,
    entry_model: EntryModel | None = None,
    expected: Float[Tensor, "n out"] | None = None,
) -> Float[Tensor, "n out"]:
    """Solve ``gradient = D^T features`` for the errors D by least squares.

    Args:
        features: The features, one row for each image.
        gradient: The gradient of the head's first weight, received or simulated.
        entry_model: The entry model of the gradient; None if all entries are equally certain.
        expected: The expected errors, from which the entry model computes what it expects; None for none.

    Returns:
        The errors times the gain of the gradient.
    """
    if entry_model is None or expected is None:
        product = gradient.times(features) if isinstance(gradient, Factored) else features @ gradient.T
        read: Tensor = torch.linalg.solve(ridged(features @ features.T, 1e-4), product)
        return read

    def transposed(
        entries: Float[Tensor, "rows columns"], block: Block
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
        target, weight = entry_model(entries.T, (block[1], block[0]))
        return target.T, weight.T

    chunk = max(1, READ // features.shape[1])
    return solve_weighted(features, expected, transposed, ridge=1e-4, chunk=chunk).values


def round_patterns(read: Float[Tensor, "n out"], open_: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
    """Round errors behind ReLU to the nearer of two values: `open_` behind an open gate, or 0 behind a closed one.

    Args:
        read: Errors that were read from the update, one row for each image.
        open_: The errors if all gates were open.
    """
    return open_ * (read * open_.sign() > 0.5 * open_.abs())


def decide_patterns(
    read: Float[Tensor, "n out"],
    open_: Float[Tensor, "n out"],
    drive: Float[Tensor, "n out"],
    *,
    drive_log_odds: float,
) -> Float[Tensor, "n out"]:
    """Decide which gates of ReLU are open, from the errors that were read and from the expected input of each gate.

    A gate is open if the sum of two log-odds is positive. The first is that of the error that was read, with Gaussian
    noise whose variance is the mean square of what `round_patterns` changes. The second is `drive_log_odds` times the
    expected input of the activation in units of its standard deviation. If there is no noise the first decides.

    Args:
        read: Errors that were read from the update, one row for each image.
        open_: The errors if all gates were open.
        drive: The expected input of the activation.
        drive_log_odds: Log-odds for an input of one standard deviation; see `FactorisationTuning`.

    Returns:
        The errors: `open_` behind open gates, 0 behind closed ones.
    """
    tiny = torch.finfo(read.dtype).tiny
    variance = (read - round_patterns(read, open_)).square().mean().clamp_min(tiny)
    evidence = (read * open_ - 0.5 * open_.square()) / variance
    return open_ * (evidence + drive_log_odds * drive / drive.std().clamp_min(tiny) > 0)


def first_guess(
    head: Head,
    gradients: list[Float[Tensor, "_ _"]],
    labels: Int[Tensor, " n"],
    *,
    gain: float,
    tuning: FactorisationTuning,
    generator: Generator,
    unknown: Unknown = (),
) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n out"]]:
    """Estimate features and errors before there are pictures.

    The errors of the last layer are those of equal class probabilities. `descend_head` computes those of the first
    layer from them, and `refine` alternates features and errors.

    Args:
        head: The head.
        gradients: The received gradient of each of the head's weights, first to last.
        labels: The class index of each image.
        gain: Ratio of the update's length to that of one gradient.
        tuning: The constants of the factorisation.
        generator: Randomness of the search for the gates of images of one class.
        unknown: See `unknown_columns`; empty if something was sent of every column.

    Returns:
        The features, and the errors times the gain.
    """
    n, classes, ridge, rounds = len(labels), gradients[-1].shape[0], tuning.first_ridge, tuning.first_rounds
    even = torch.zeros((n, classes), dtype=gradients[0].dtype, device=gradients[0].device)
    errors, opened = descend_head(
        head, gradients, head.loss.mean.slopes(even, labels) / n, gain=gain, tuning=tuning, unknown=unknown
    )
    if opened is not None and len(gradients) == 2 and head.is_gated:
        for label in torch.unique(labels):
            rows = (labels == label).nonzero()[:, 0]
            if len(rows) > 1:
                row = opened[rows[0]] * head.open_slope(1)
                gates = find_patterns(gradients[0], row, len(rows), n, tuning=tuning, generator=generator)
                errors[rows[: len(gates)]] = row * gates
                rounds = 0  # these gates are more exact than those computed from separated features
    if head.is_guessed:
        rounds = 0  # the gradient of each layer shows which inputs were dropped; the features do not
    features = solve(errors * gain, gradients[0], ridge)
    return refine(
        head, gradients, features, errors * gain, labels, gain=gain, rounds=rounds, tuning=tuning, unknown=unknown
    )


def refine(
    head: Head,
    gradients: list[Float[Tensor, "_ _"]],
    features: Float[Tensor, "n features"],
    errors: Float[Tensor, "n out"],
    labels: Int[Tensor, " n"],
    *,
    gain: float,
    rounds: int,
    tuning: FactorisationTuning,
    unknown: Unknown = (),
) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n out"]]:
    """Compute errors from features and features from errors, in turns.

    Without obfuscation the result converges to the exact features, and the turns end when they no longer change. In a
    head of three layers or more, wrong gates may reproduce themselves. There the errors are also computed by
    `descend_head`, and those that explain more of the gradient are used.

    Args:
        head: The head.
        gradients: The received gradient of each of the head's weights, first to last.
        features: The first features, one row for each image.
        errors: The first errors times the gain; they are returned if `rounds` is 0.
        labels: The class index of each image.
        gain: Ratio of the update's length to that of one gradient.
        rounds: Number of alternations at most, at least 0.
        tuning: The constants of the factorisation.
        unknown: See `unknown_columns`; empty if something was sent of every column.

    Returns:
        The features, and the errors times the gain.
    """
    for _ in range(rounds):
        layers = head.layers(head.allowed(features), labels)
        errors = layers[0].errors
        if len(layers) > 2:
            downwards, _opened = descend_head(
                head, gradients, layers[-1].errors, gain=gain, tuning=tuning, unknown=unknown
            )
            errors = max((errors, downwards), key=lambda d: explained(d, gradients[0]))
        errors = errors * gain
        features, before = solve(errors, gradients[0], tuning.first_ridge), features
        if float((features - before).norm()) <= SETTLED * float(features.norm()):
            break
    return features, errors


def with_certainty(separated: FeatureEstimate, floor: float) -> Float[Tensor, "one_or_features n n"]:
    """Return the inverse covariance of the errors of separated features, with a floor added to the covariance.

    The floor stands for features that no searched picture has, and keeps the search well conditioned.

    Args:
        separated: The features, with the covariance of their errors.
        floor: Standard deviation of an independent error that each feature has besides, relative to that of all
            features.
    """
    n = separated.features.shape[0]
    spread = separated.features.var()
    eye = torch.eye(n, dtype=separated.features.dtype, device=separated.features.device)
    precision = torch.empty_like(separated.covariance)
    for some, found in zip(torch.split(separated.covariance, CHUNK), torch.split(precision, CHUNK), strict=True):
        torch.linalg.inv(some + floor**2 * spread * eye, out=found)
    return precision
