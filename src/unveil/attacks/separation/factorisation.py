"""Separate a batch into the features of its single images, from the gradient of the Linear layer behind them.

The gradient of the head's first weight is ``G = gain * D^T A``. Its errors D (images x out) follow from the features A
(images x in) and the public head, so the two are found self-consistently:

    A -> D = errors of the head at A -> A = (D D^T)^-1 D G / gain -> ...

Every feature is averaged over as many equations as the layer has outputs, which is why quantisation and noise do not
stop it. Once there are pictures, whose features A(x) are nearly right, D is better *read* from the update than
computed from noisy features: ReLU's gates are zero or one, so what the least squares say of D needs only to be rounded.

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

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.relu_patterns import find_patterns
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.weighted_lstsq import COLUMNS, explained, ridged, solve, solve_weighted
from unveil.core.factored import Factored
from unveil.core.protocols import EntryModel
from unveil.core.types import Block


@dataclass(frozen=True, eq=False)
class FeatureEstimate:
    """The features of single images and how certain they are.

    Args:
        features: One row an image.
        errors: D with the gain in it, so that ``G = errors^T features``.
        covariance: Of the errors that `features` have, for each feature: 1 or features x images x images.
        residual: Share of the update's energy that the product does not explain, noise and wrong D together.
    """

    features: Float[Tensor, "n features"]
    errors: Float[Tensor, "n out"]
    covariance: Float[Tensor, "one_or_features n n"]
    residual: float

    @property
    def noise(self) -> float:
        """Mean variance of a feature's error."""
        return float(self.covariance.diagonal(dim1=-2, dim2=-1).mean())


def separate(
    errors: Float[Tensor, "n out"],
    gradient: Float[Tensor, "out features"],
    *,
    guess: Float[Tensor, "n features"] | None = None,
    entry_model: EntryModel | None = None,
    ridge: float = 1e-6,
) -> FeatureEstimate:
    """Features from known errors, each entry weighted by what the obfuscation says of it.

    Args:
        errors: D with the gain in it.
        gradient: What was received for the weight.
        guess: Features of the current pictures; entry models depend on what is expected.
        entry_model: None where all entries are equally certain.
        ridge: In units of the mean eigenvalue of ``D D^T``.
    """
    if entry_model is None or guess is None:
        return _evenly(errors, gradient, ridge)
    return _weighted(errors, gradient, guess, entry_model, ridge)


def _evenly(errors: Tensor, gradient: Tensor, ridge: float) -> FeatureEstimate:
    gram = errors @ errors.T
    correlations = errors @ gradient
    features = torch.linalg.solve(ridged(gram, ridge), correlations)
    energy = gradient.square().sum(dtype=torch.float64)
    explained = (features * (2 * correlations - gram @ features)).sum(dtype=torch.float64)
    left = (energy - explained).clamp_min(0)
    equations = gradient.shape[0]
    variance = float(left / gradient.numel()) / max(1 - len(errors) / equations, 1 / equations)
    covariance = variance * torch.linalg.inv(ridged(gram, 1e-6))
    return FeatureEstimate(features, errors, covariance[None], float(left / energy.clamp_min(1e-300)))


def _weighted(
    errors: Tensor, gradient: Tensor, guess: Tensor, entry_model: EntryModel, ridge: float
) -> FeatureEstimate:
    solution = solve_weighted(errors, guess, entry_model, ridge=ridge, chunk=COLUMNS)
    n, out = errors.shape
    variance = solution.misfit / max(1 - n / out, 1 / out)
    even = solution.grams.mean(0, keepdim=True)
    covariance = variance * torch.linalg.inv(ridged(solution.grams, 1e-4) + 1e-6 * even)
    return FeatureEstimate(solution.values, errors, covariance, solution.residual)


def read_errors(
    features: Float[Tensor, "n features"],
    gradient: Tensor | Factored,
    *,
    entry_model: EntryModel | None = None,
    expected: Float[Tensor, "n out"] | None = None,
) -> Float[Tensor, "n out"]:
    """Least squares for D in ``gradient = D^T features``: what the update itself says of the errors."""
    if entry_model is None or expected is None:
        product = gradient.times(features) if isinstance(gradient, Factored) else features @ gradient.T
        read: Tensor = torch.linalg.solve(ridged(features @ features.T, 1e-4), product)
        return read

    def transposed(entries: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        target, weight = entry_model(entries.T, (block[1], block[0]))
        return target.T, weight.T

    chunk = max(1, COLUMNS * COLUMNS // (16 * features.shape[1]))
    return solve_weighted(features, expected, transposed, ridge=1e-4, chunk=chunk).values


def round_patterns(read: Float[Tensor, "n out"], open_: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
    """Errors behind ReLU: each is the slope `open_` that reaches an open gate, or zero behind a closed one."""
    return open_ * (read * open_.sign() > 0.5 * open_.abs())


def decide_patterns(
    read: Float[Tensor, "n out"],
    open_: Float[Tensor, "n out"],
    drive: Float[Tensor, "n out"],
    *,
    drive_log_odds: float,
) -> Float[Tensor, "n out"]:
    """The same with what is expected of each gate beside what was read of it, where reading is noisy.

    Log-odds of an open gate: those of the reading under Gaussian noise, whose variance is told from what rounding
    leaves, plus `drive_log_odds` times what drives the gate in units of its spread. Without noise the reading decides.

    Args:
        read: Errors read from the update.
        open_: What they are behind open gates.
        drive: What goes into the activation, as far as the guess knows it.
        drive_log_odds: See `FactorisationTuning`.
    """
    tiny = torch.finfo(read.dtype).tiny
    variance = (read - round_patterns(read, open_)).square().mean().clamp_min(tiny)
    evidence = (read * open_ - 0.5 * open_.square()) / variance
    return open_ * (evidence + drive_log_odds * drive / drive.std().clamp_min(tiny) > 0)


def first_guess(
    head: Head,
    gradients: list[Tensor],
    labels: Int[Tensor, " n"],
    *,
    gain: float,
    tuning: FactorisationTuning,
    generator: Generator,
) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n out"]]:
    """Features without any picture: down the head from equal probabilities, then round and round self-consistently.

    Args:
        head: The head.
        gradients: What was received for each of its weights, first to last.
        labels: One class an image.
        gain: How much larger the update is than one gradient.
        tuning: Of the factorisation.
        generator: Randomness of the search for what tells images of one class apart.

    Returns:
        The features, and the errors with the gain in them.
    """
    n, classes, ridge, rounds = len(labels), gradients[-1].shape[0], tuning.first_ridge, tuning.first_rounds
    hot = torch.nn.functional.one_hot(labels, classes).to(gradients[0].dtype)
    errors, opened = descend_head(head, gradients, (1 / classes - hot) / n, gain=gain, tuning=tuning)
    if opened is not None and len(gradients) == 2 and head.is_gated:
        for label in torch.unique(labels):
            rows = (labels == label).nonzero()[:, 0]
            if len(rows) > 1:
                row = opened[rows[0]] * head.open_slope(1)
                gates = find_patterns(gradients[0], row, len(rows), n, tuning=tuning, generator=generator)
                errors[rows[: len(gates)]] = row * gates
                rounds = 0  # gates found together are better than those of features found one by one
    if head.is_guessed:
        rounds = 0  # each layer's own gradient tells which of its inputs were dropped, features do not
    features = solve(errors * gain, gradients[0], ridge)
    return refine(head, gradients, features, errors * gain, labels, gain=gain, rounds=rounds, tuning=tuning)


def descend_head(
    head: Head, gradients: list[Tensor], errors: Float[Tensor, "n classes"], *, gain: float, tuning: FactorisationTuning
) -> tuple[Float[Tensor, "n out"], Float[Tensor, "n out"] | None]:
    """Errors of the first Linear layer from those of the last, the inputs of each layer on the way from its gradient.

    Returns:
        The errors, and what they would be behind open gates; None for a head of one layer.
    """
    opened = None
    for layer in range(len(gradients) - 1, 0, -1):
        inputs = solve(errors, gradients[layer] / gain, tuning.first_ridge)
        if head.is_gated:
            inputs = lift(inputs, errors, weak_equation=tuning.weak_equation)
        opened = errors @ head.weight(layer)
        errors = opened * head.slope_of(layer, inputs)
    return errors, opened


def lift(
    inputs: Float[Tensor, "n inside"], errors: Float[Tensor, "n out"], *, weak_equation: float
) -> Float[Tensor, "n inside"]:
    """Inputs behind ReLU, with what equations that say nearly nothing left open: each unit's smallest value is zero.

    Where every class is in the batch about equally often, errors from equal probabilities add up to nothing, so a
    unit's mean over the images is in no equation. But it is never negative, and seldom open for all images.
    """
    values, vectors = torch.linalg.eigh(errors @ errors.T)
    direction = vectors[:, 0] * vectors[:, 0].sum().sign()
    if values[0] > weak_equation * values.mean() or float(direction.min()) <= 0:
        return inputs
    lifted: Tensor = inputs + direction[:, None] * (-inputs / direction[:, None]).amax(0)
    return lifted


def refine(
    head: Head,
    gradients: list[Tensor],
    features: Float[Tensor, "n features"],
    errors: Float[Tensor, "n out"],
    labels: Tensor,
    *,
    gain: float,
    rounds: int,
    tuning: FactorisationTuning,
) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n out"]]:
    """Errors from features and features from errors, `rounds` times; exact in the end where nothing was obfuscated.

    In a deep head wrong gates can confirm themselves. There the errors are also computed downwards, from the
    probabilities and each layer's own gradient, and those are taken that explain the update better.
    """
    for _ in range(rounds):
        layers = head.layers(head.allowed(features), labels)
        errors = layers[0].errors
        if len(layers) > 2:
            downwards, _opened = descend_head(head, gradients, layers[-1].errors, gain=gain, tuning=tuning)
            errors = max((errors, downwards), key=lambda d: explained(d, gradients[0]))
        errors = errors * gain
        features = solve(errors, gradients[0], tuning.first_ridge)
    return features, errors


def with_certainty(separated: FeatureEstimate, floor: float) -> Tensor:
    """Inverse covariance of what features may be off by: the update's noise, and a floor relative to their spread.

    The floor stands for what the pictures searched cannot express, and keeps the search well conditioned.
    """
    n = separated.features.shape[0]
    spread = separated.features.var()
    eye = torch.eye(n, dtype=separated.features.dtype, device=separated.features.device)
    precision: Tensor = torch.linalg.inv(separated.covariance + floor**2 * spread * eye)
    return precision
