"""Separate the images of a batch by the closed gates of ReLU behind the first of two Linear layers.

The gradient of the first weight is ``G = D^T A``. A row of D is ``gates * (e W)``: the image's errors e at the last
layer, one number a class, taken back through the last weight W, and 0 wherever ReLU was closed. So each image's row is
a sparse vector in the space that G's columns span, which has one dimension an image. A search for sparse vectors in
this space finds the rows whatever the class probabilities are, and tells images of one class apart.

Reference:
    ReLU's zeros as the key to the rows: Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated
    Learning, NeurIPS 2024. The search by soft thresholds, started at the rows of the basis: Qu, Sun and Wright, Finding
    a Sparse Vector in a Subspace: Linear Sparsity Using Alternating Directions, IEEE Transactions on Information Theory
    2016. The basis: Halko, Martinsson and Tropp, Finding Structure with Randomness, SIAM Review 2011. The errors of the
    last layer as the row's second constraint, which withstands noise, and the lengths by the probabilities: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.tuning import ClosedGatesTuning
from unveil.attacks.separation.weighted_lstsq import energy_of
from unveil.core.spectra import eigh

OVERSAMPLED = 8  # directions that the search for the space of the rows has more than images
FEWEST_EQUATIONS = 2  # times the classes: rows with fewer open gates than this do not determine their errors
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of D up to their lengths, found in the space of the gradient's columns.

    Args:
        rows: The rows, each of length 1, with the sign of errors; the best one comes first.
        errors: The errors of the last layer that belong to each row, in the same scale.
        labels: The class whose error is negative, of each row.
        off: Distance of each row from the space, 0 to 1; 0 without obfuscation.
    """

    rows: Float[Tensor, "found out"]
    errors: Float[Tensor, "found classes"]
    labels: Int[Tensor, " found"]
    off: Float[Tensor, " found"]


def column_space(
    gradient: Float[Tensor, "out features"], rank: int, *, rounds: int, generator: Generator
) -> tuple[Float[Tensor, "out rank"], float]:
    """Find the strongest directions of a gradient's columns by a random projection.

    Args:
        gradient: The received gradient of the weight.
        rank: Number of directions.
        rounds: Number of times that the directions are multiplied by ``gradient gradient^T``, at least 0.
        generator: Randomness of the projection.

    Returns:
        An orthonormal basis, float64, and the share of the gradient's energy in it, 0 to 1.
    """
    out, features = gradient.shape
    size = min(rank + OVERSAMPLED, out, features)
    random = torch.randn((features, size), generator=generator, device=generator.device).to(gradient)
    basis, _ = torch.linalg.qr((gradient @ random).double())
    for _ in range(rounds):
        back, _ = torch.linalg.qr(gradient.T @ basis.to(gradient))
        basis, _ = torch.linalg.qr((gradient @ back).double())
    inside = (basis.T.to(gradient) @ gradient).double()
    values, vectors = eigh(inside @ inside.T)
    energy = max(energy_of(gradient), TINY)
    return basis @ vectors[:, -rank:], float(values[-rank:].sum() / energy)


def find_rows(
    space: Float[Tensor, "out rank"],
    weight: Float[Tensor, "classes out"],
    labels: Int[Tensor, " n"],
    *,
    tuning: ClosedGatesTuning,
    generator: Generator,
) -> SparseRows:
    """Find the rows of D, at most as many of each class as the batch has images of it.

    Args:
        space: An orthonormal basis of the space of the gradient's columns.
        weight: The weight of the last layer, times the slope of open gates.
        labels: The class index of each image.
        tuning: The constants of the search.
        generator: Randomness of the first vectors.
    """
    weight = weight.double()
    starts = torch.randn((tuning.tries, len(space)), generator=generator, device=generator.device)
    starts = torch.cat([space, starts.to(space) @ space])
    vectors = sparse_vectors(space, starts, threshold=tuning.threshold, rounds=tuning.rounds)
    rows, errors, off = constrained(space, weight, vectors, rounds=tuning.rounds)
    found = errors.abs().argmax(1)
    sign = -errors.gather(1, found[:, None]).sign()
    rows, errors = rows * sign, errors * sign
    fits = ((rows != 0).sum(1) >= FEWEST_EQUATIONS * len(weight)) & (off < tuning.most_off)
    wanted = torch.bincount(labels, minlength=len(weight)).tolist()
    kept: list[int] = []
    for index in torch.where(fits, off, torch.inf).argsort().tolist():
        if not bool(fits[index]):
            break
        label = int(found[index])
        if wanted[label] and not bool(((rows[kept] @ rows[index]).abs() > tuning.same_row).any()):
            kept.append(index)
            wanted[label] -= 1
    return SparseRows(rows[kept], errors[kept], found[kept], off[kept])


def sparse_vectors(
    space: Float[Tensor, "out rank"], starts: Float[Tensor, "tries rank"], *, threshold: float, rounds: int
) -> Float[Tensor, "kept out"]:
    """Make vectors of a space sparse: small entries are set to 0, the others shrink, and the result is projected back.

    Args:
        space: An orthonormal basis of the space.
        starts: Coordinates of the first vectors.
        threshold: Entries below this count as 0, in units of the root mean square of a vector's entries.
        rounds: Number of turns.

    Returns:
        The vectors that are left, each of length 1; those of which nothing is above the threshold are left out.
    """
    least = threshold / len(space) ** 0.5
    coordinates = starts / starts.norm(dim=1, keepdim=True).clamp_min(TINY)
    for _ in range(rounds):
        whole = coordinates @ space.T
        coordinates = (whole.sign() * (whole.abs() - least).clamp_min(0)) @ space
        coordinates = coordinates / coordinates.norm(dim=1, keepdim=True).clamp_min(TINY)
    left: Tensor = coordinates[coordinates.norm(dim=1) > 0.5] @ space.T
    return left


def constrained(
    space: Float[Tensor, "out rank"],
    weight: Float[Tensor, "classes out"],
    vectors: Float[Tensor, "tries out"],
    *,
    rounds: int,
) -> tuple[Float[Tensor, "tries out"], Float[Tensor, "tries classes"], Float[Tensor, " tries"]]:
    """Move vectors of a space to ones of the form ``gates * (e W)``, where the entries of e sum to 0.

    In turns, e is fitted to the open entries, a gate is open where the vector is nearer to ``e W`` than to 0, and the
    result is projected on the space.

    Args:
        space: An orthonormal basis of the space.
        weight: The matrix W.
        vectors: The first vectors, in the space.
        rounds: Most turns.

    Returns:
        Vectors of this form, each of length 1 or 0; the e of each; and their distances from the space, in units of
        their lengths.
    """
    classes = len(weight)
    products = (weight[:, None] * weight[None]).flatten(0, 1)
    gates = vectors.abs() > 0.5 * vectors.square().mean(1, keepdim=True).sqrt()
    eye = torch.eye(classes, dtype=weight.dtype, device=weight.device)
    for _ in range(max(rounds, 1)):
        grams = (gates.to(weight) @ products.T).reshape(-1, classes, classes)
        ridge = 1e-9 * grams.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY)
        errors = torch.linalg.solve(grams + ridge[:, None, None] * eye, ((gates * vectors) @ weight.T)[..., None])
        errors = errors[..., 0] - errors[..., 0].mean(1, keepdim=True)
        pulls = errors @ weight
        before, gates = gates, vectors * pulls > 0.5 * pulls.square()
        whole = gates * pulls
        length = whole.norm(dim=1, keepdim=True).clamp_min(TINY)
        whole, errors = whole / length, errors / length
        vectors = whole @ space @ space.T
        if torch.equal(before, gates):
            break
    return whole, errors, (whole - vectors).norm(dim=1)
