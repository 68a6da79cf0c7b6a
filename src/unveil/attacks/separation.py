"""Separate a batch into the features of its single images, from the gradient of the Linear layer behind them.

The gradient of the head's first weight is ``G = gain * D^T A``. Its errors D (images x out) follow from the features A
(images x in) and the public head, so the two are found self-consistently:

    A -> D = errors of the head at A -> A = (D D^T)^-1 D G / gain -> ...

Every feature is averaged over as many equations as the layer has outputs, which is why quantisation and noise do not stop
it. Once there are pictures, whose features A(x) are nearly right, D is better *read* from the update than computed from
noisy features: ReLU's gates are zero or one, so what the least squares say of D needs only to be rounded.

Reference:
    The two thin factors: Geng et al., Towards General Deep Leakage in Federated Learning, 2021; sparse errors of ReLU as
    a key: Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS 2024. Weights by
    the channel, gates read from the update, certainty: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unveil.attacks.head import Head, Layer
from unveil.core import Belief, Block
from unveil.thin import Thin

WEAK = 1e-3  # ridge of a first solve, in units of the mean eigenvalue: errors are rough and images of a class alike
COLUMNS = 4096  # features weighted at a time
MANY = 32  # batches above this size share one covariance over all features: per-feature ones would not fit


@dataclass(frozen=True, eq=False)
class Separated:
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


def solve(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"], ridge: float) -> Tensor:
    """Least squares for A in ``gradient = errors^T A``, with a ridge in units of the mean eigenvalue."""
    return torch.linalg.solve(_ridged(errors @ errors.T, ridge), errors @ gradient)


def separate(
    errors: Float[Tensor, "n out"],
    gradient: Float[Tensor, "out features"],
    *,
    guess: Float[Tensor, "n features"] | None = None,
    belief: Belief | None = None,
    ridge: float = 1e-6,
) -> Separated:
    """Features from known errors, each entry weighted by what the channel says of it.

    Args:
        errors: D with the gain in it.
        gradient: What was received for the weight.
        guess: Features of the current pictures; the channel's beliefs depend on what is expected.
        belief: None where all entries are equally certain.
        ridge: In units of the mean eigenvalue of ``D D^T``.
    """
    if belief is None or guess is None:
        return _evenly(errors, gradient, ridge)
    return _weighted(errors, gradient, guess, belief, ridge)


def _evenly(errors: Tensor, gradient: Tensor, ridge: float) -> Separated:
    gram = errors @ errors.T
    correlations = errors @ gradient
    features = torch.linalg.solve(_ridged(gram, ridge), correlations)
    energy = gradient.square().sum(dtype=torch.float64)
    explained = (features * (2 * correlations - gram @ features)).sum(dtype=torch.float64)
    left = (energy - explained).clamp_min(0)
    equations = gradient.shape[0]
    variance = float(left / gradient.numel()) / max(1 - len(errors) / equations, 1 / equations)
    covariance = variance * torch.linalg.inv(_ridged(gram, 1e-6))
    return Separated(features, errors, covariance[None], float(left / energy.clamp_min(1e-300)))


def _weighted(errors: Tensor, gradient: Tensor, guess: Tensor, belief: Belief, ridge: float) -> Separated:
    solution = solve_weighted(errors, guess, belief, ridge=ridge, chunk=COLUMNS)
    n, out = errors.shape
    variance = solution.misfit / max(1 - n / out, 1 / out)
    covariance = variance * torch.linalg.inv(_ridged(solution.grams, 1e-4))
    return Separated(solution.values, errors, covariance, solution.residual)


@dataclass(frozen=True, eq=False)
class Solution:
    """Weighted least squares for every column of a matrix.

    Args:
        values: The solution.
        grams: The matrix of each column's equations; one for all where there are many unknowns.
        misfit: Mean weighted squared error in units of a weight of 1.
        residual: Share of the weighted energy that is left.
    """

    values: Float[Tensor, "n columns"]
    grams: Float[Tensor, "one_or_columns n n"]
    misfit: float
    residual: float


def solve_weighted(
    known: Float[Tensor, "n rows"], guess: Float[Tensor, "n columns"], belief: Belief, *, ridge: float, chunk: int
) -> Solution:
    """Least squares for X in ``known^T X = Y``, each entry of Y a target with a weight.

    Args:
        known: The matrix on the left.
        guess: What X is expected to be.
        belief: Target and weight of some columns of Y, given what is expected there.
        ridge: In units of the mean eigenvalue of each column's equations.
        chunk: Columns worked on at a time.
    """
    n, size = guess.shape
    upper = torch.triu_indices(n, n, device=known.device)
    shared = n > MANY
    # M_f = sum_o w_of k_o k_o^T is linear in the weights: one product for all columns, pairs x rows.
    products = None if shared else known[upper[0]] * known[upper[1]]
    values = torch.empty_like(guess)
    grams = known.new_zeros((1 if shared else size, n, n))
    left = energy = weights = 0.0
    for start in range(0, size, chunk):
        part = slice(start, min(start + chunk, size))
        expected = known.T @ guess[:, part]
        target, weight = belief(expected, (slice(None), part))
        if products is None:  # one step towards the weighted solution, with the columns' mean weights
            gram = (known * weight.mean(1)) @ known.T
            grams += (gram * (part.stop - part.start) / size)[None]
            step = torch.linalg.solve(_ridged(gram, ridge), known @ (weight * (target - expected)))
            values[:, part] = guess[:, part] + step
        else:
            gram = known.new_empty((part.stop - part.start, n, n))
            gram[:, upper[0], upper[1]] = gram[:, upper[1], upper[0]] = (products @ weight).T
            right = known @ (weight * target)
            values[:, part] = torch.linalg.solve(_ridged(gram, ridge), right.T[..., None])[..., 0].T
            grams[part] = gram
        off = weight * (known.T @ values[:, part] - target).square()
        left += float(off.sum(dtype=torch.float64))
        energy += float((weight * target.square()).sum(dtype=torch.float64))
        weights += float(weight.sum(dtype=torch.float64))
    return Solution(values, grams, left / max(weights, 1e-300), left / max(energy, 1e-300))


def read_errors(
    features: Float[Tensor, "n features"],
    gradient: Tensor | Thin,
    *,
    belief: Belief | None = None,
    expected: Float[Tensor, "n out"] | None = None,
) -> Float[Tensor, "n out"]:
    """Least squares for D in ``gradient = D^T features``: what the update itself says of the errors."""
    if belief is None or expected is None:
        product = gradient.times(features) if isinstance(gradient, Thin) else features @ gradient.T
        return torch.linalg.solve(_ridged(features @ features.T, 1e-4), product)

    def transposed(entries: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        target, weight = belief(entries.T, (block[1], block[0]))
        return target.T, weight.T

    chunk = max(1, COLUMNS * COLUMNS // (16 * features.shape[1]))
    return solve_weighted(features, expected, transposed, ridge=1e-4, chunk=chunk).values


def round_gates(read: Float[Tensor, "n out"], open_: Float[Tensor, "n out"]) -> Float[Tensor, "n out"]:
    """Errors behind ReLU: each is the slope `open_` that reaches an open gate, or zero behind a closed one."""
    return open_ * (read * open_.sign() > 0.5 * open_.abs())


def unexplained(errors: Float[Tensor, "n out"], gradient: Float[Tensor, "out features"]) -> float:
    """Share of a gradient's energy that no features at all could explain with these errors."""
    correlations = errors @ gradient
    features = torch.linalg.solve(_ridged(errors @ errors.T, 1e-6), correlations)
    energy = gradient.square().sum(dtype=torch.float64)
    return float(1 - (features * correlations).sum(dtype=torch.float64) / energy.clamp_min(1e-300))


def first_guess(
    head: Head, gradients: list[Tensor], labels: Tensor, *, gain: float, classes: int, rounds: int, ridge: float = WEAK
) -> tuple[Tensor, list[Layer]]:
    """Features without any picture: walk down the head from equal probabilities, then go round self-consistently.

    Args:
        head: The head.
        gradients: What was received for each of its weights, first to last.
        labels: One class an image.
        gain: How much larger the update is than one gradient.
        classes: Outputs of the last layer.
        rounds: Times that errors are computed from the features and the features from the errors.
        ridge: In units of the mean eigenvalue.

    Returns:
        The features, and the head's layers at them.
    """
    n = len(labels)
    hot = torch.nn.functional.one_hot(labels, classes).to(gradients[0].dtype)
    errors = (1 / classes - hot) / n
    for layer in range(len(gradients) - 1, 0, -1):
        inputs = solve(errors, gradients[layer] / gain, ridge)
        weight = head.weight(layer)
        errors = (errors @ weight) * head.slope_of(layer, inputs)
    features = solve(errors, gradients[0] / gain, ridge)
    return refine(head, gradients[0] / gain, features, labels, rounds=rounds, ridge=ridge)


def refine(
    head: Head, gradient: Tensor, features: Tensor, labels: Tensor, *, rounds: int, ridge: float
) -> tuple[Tensor, list[Layer]]:
    """Errors from features and features from errors, `rounds` times."""
    layers = head.layers(head.allowed(features), labels)
    for _ in range(rounds):
        features = solve(layers[0].errors, gradient, ridge)
        layers = head.layers(head.allowed(features), labels)
    return features, layers


def with_certainty(separated: Separated, floor: float) -> Tensor:
    """Inverse covariance of what features may be off by: the update's noise, and a floor relative to their spread.

    The floor stands for what the pictures searched cannot express, and keeps the search well conditioned.
    """
    n = separated.features.shape[0]
    spread = separated.features.var()
    eye = torch.eye(n, dtype=separated.features.dtype, device=separated.features.device)
    return torch.linalg.inv(separated.covariance + floor**2 * spread * eye)


def rescaled(separated: Separated, factor: float) -> Separated:
    """The same product with its gain shifted from the features to the errors."""
    return replace(
        separated,
        features=separated.features / factor,
        errors=separated.errors * factor,
        covariance=separated.covariance / factor**2,
    )


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return gram + ridge * mean[..., None, None] * eye
