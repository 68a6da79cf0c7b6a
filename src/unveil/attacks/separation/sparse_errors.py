"""Find the errors of single images in the gradient of a Linear layer behind which ReLU's closed gates make them zero.

The gradient is ``D^T A``, so its columns span the same space as the columns of D^T, one for each image. Nothing is
known of the errors D but that each row is zero where the gate of that unit is closed for that image. Of all directions
in the space these have the most zeros, and they are searched: a random direction that is zero at a few random units is
made sparser by reweighted least squares until it stays. Labels, the layers behind and what they draw by chance do not
matter. The scale of each row remains unknown.

Reference:
    Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS 2024, which proposes
    directions that are zero at random units and keeps the sparse ones; Chartrand and Yin, Iteratively Reweighted
    Algorithms for Compressive Sensing, ICASSP 2008. Their combination for gradients with noise: ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from unveil.attacks.separation.relu_patterns import row_space
from unveil.core.spectra import eigh

STARTS = 512  # directions of one trial
TRIALS = 24
ROUNDS = 25  # reweightings of each direction, whose tolerance falls from the first to the last value
TOLERANCES = (0.3, 0.02)  # magnitude below which an entry counts as zero, relative to the direction's root mean square
POLISHES = 6  # times that directions are then solved for from their zeros alone
EXACT = 1e-6  # tolerance of the last of them, for a gradient without noise
SAME = 0.9  # cosine from which on two directions count as the same
SPARSE = 0.15  # share of units that are closed for an image at least
NOISE = 4.0  # standard deviations of the gradient's noise below which an entry counts as zero


def sparse_errors(
    gradient: Float[Tensor, "out features"], count: int, *, generator: Generator
) -> Float[Tensor, "found out"]:
    """Find the errors of images, each row with unit length and an unknown sign; float64.

    Args:
        gradient: The received gradient of the Linear layer's weight.
        count: Number of images in the batch.
        generator: Randomness of the directions at which the search starts.

    Returns:
        At most `count` rows, those with the most zeros first. Fewer if the others do not have enough zeros.
    """
    space = row_space(gradient, count)
    used = space.norm(dim=1) > 1e-9 * space.norm()
    space = space[used]
    least = max(EXACT, NOISE * _relative_noise(gradient[used].double(), space))
    silent = int((~used).sum())
    found = space.new_zeros((0, count))
    for _ in range(TRIALS):
        directions = _sparsest(space, _starts(space, generator), least)
        before, found = found, _distinct(space, torch.cat([found, directions]), least, silent=silent)[:count]
        if len(found) == len(before) == count and bool(((found @ before.T).abs().amax(1) > SAME).all()):
            break  # of another trial no direction is sparser
    errors = space.new_zeros((len(found), len(used)))
    rows = found @ space.T
    errors[:, used] = rows * ~_closed(rows, least)
    unit: Tensor = errors / errors.norm(dim=1, keepdim=True)
    return unit


def _relative_noise(gradient: Float[Tensor, "out features"], space: Float[Tensor, "out n"]) -> float:
    """Return the standard deviation of the noise in a direction of the space, relative to the direction's size."""
    coordinates = space.T @ gradient
    left = (gradient.square().sum() - coordinates.square().sum()).clamp_min(0)
    noise = float(left) / max(len(gradient) - space.shape[1], 1) / gradient.shape[1]  # variance of an entry's noise
    weakest = float(torch.linalg.eigvalsh(coordinates @ coordinates.T)[0])
    return float((len(gradient) * noise / max(weakest, 1e-300)) ** 0.5)


def _starts(space: Float[Tensor, "out n"], generator: Generator) -> Float[Tensor, "starts n"]:
    """Return directions that are zero at n - 1 random units."""
    out, n = space.shape
    if n == 1:
        return space.new_ones((1, 1))
    units = torch.rand((STARTS, out), generator=generator, device=generator.device).topk(min(n - 1, out), dim=1).indices
    picked = space[units.to(space.device)]
    starts: Tensor = torch.linalg.svd(picked).Vh[:, -1]
    return starts


def _sparsest(
    space: Float[Tensor, "out n"], directions: Float[Tensor, "starts n"], least: float
) -> Float[Tensor, "starts n"]:
    """Minimise ``sum log(row^2 + tolerance^2)`` over unit directions by reweighted least squares, then solve exactly.

    Args:
        space: An orthonormal basis of the space of the directions.
        directions: The first directions.
        least: Tolerance at the end, by the gradient's noise.
    """
    products = (space[:, :, None] * space[:, None]).flatten(1)

    def solved(weights: Float[Tensor, "starts out"]) -> Float[Tensor, "starts n"]:
        grams = (weights @ products).reshape(-1, *directions.shape[1:], directions.shape[1])
        vectors: Tensor = eigh(grams).vectors
        return vectors[:, :, 0]

    for tolerance in falling(TOLERANCES[0], max(TOLERANCES[1], least), ROUNDS):
        rows = directions @ space.T
        directions = solved(1 / (rows.square() + tolerance**2 * rows.square().mean(1, keepdim=True)))
    for tolerance in falling(max(TOLERANCES[1], least), least, POLISHES):
        directions = solved(_closed(directions @ space.T, tolerance).double())
    return directions


def falling(first: float, last: float, count: int) -> list[float]:
    """Return numbers from the first to the last with equal ratios."""
    return [first * (last / first) ** (number / (count - 1)) for number in range(count)]


def _distinct(
    space: Float[Tensor, "out n"], directions: Float[Tensor, "some n"], least: float, *, silent: int
) -> Float[Tensor, "found n"]:
    """Return the directions with enough zeros, the sparsest first, each once."""
    closed = (_closed(directions @ space.T, least).double().sum(1) + silent) / (len(space) + silent)
    kept: list[Tensor] = []
    for index in closed.argsort(descending=True):
        direction = directions[index]
        if float(closed[index]) < SPARSE:
            break
        if all(abs(float(direction @ other)) < SAME for other in kept):
            kept.append(direction)
    return torch.stack(kept) if kept else directions[:0]


def _closed(rows: Float[Tensor, "some out"], least: float) -> Bool[Tensor, "some out"]:
    """Return which units are closed: their entries are zero up to the noise."""
    return rows.abs() < least * rows.square().mean(1, keepdim=True).sqrt()
