"""Images of a batch that are so alike that the update holds one picture for all of them, such as copies.

The gradient of n images has rank n only if all differ. Of two copies the search for gates finds one row of errors,
whose features are then twice as large, and a second row of chance, which explains nothing and whose features are next
to nothing. Solved for as two images both would be wrong; solved for as one, both are right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unveil.attacks.separation.factorisation import FeatureEstimate, separate
from unveil.attacks.separation.weighted_lstsq import energy_of, explained
from unveil.core.protocols import EntryModel

# Of the rows of copies behind LeNet at most 0.003 and 0.12 of the largest of the class; of distinct images of one class
# at least 0.3 and 0.7. The third bound keeps black pictures, whose features are small too, from being taken for copies.
WORTH = 0.02  # of the energy that the class's best row explains, below which a row is a row of chance
SIZE = 0.25  # of the largest features of the class, below which features belong to a row of chance
NOISE = 10.0  # times the energy that chance explains of one row, above which a row is none of chance
FLOAT = 1e-6  # share of the gradient's energy that rounding in float32 may explain


def find_alike(
    found: FeatureEstimate, gradient: Float[Tensor, "out features"], labels: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Return for each image the index of the image whose picture it shares; its own index where it shares none.

    Args:
        found: The separated batch.
        gradient: The gradient of the head's first weight.
        labels: The class index of each image.
    """
    n, equations = len(labels), len(gradient)
    alike = torch.arange(n, device=labels.device)
    if len(torch.unique(labels)) == n:
        return alike
    total = energy_of(gradient)
    rows, sizes = found.errors, found.features.norm(dim=1)
    everything = explained(rows, gradient)
    chance = NOISE * max(total - everything, 0.0) / max(equations - n, 1) + FLOAT * total
    for label in torch.unique(labels):
        members = (labels == label).nonzero()[:, 0].tolist()
        if len(members) < 2:
            continue
        worth = {j: everything - explained(rows[[i for i in range(n) if i != j]], gradient) for j in members}
        best, largest = max(worth.values()), max(float(sizes[j]) for j in members)
        spare = [j for j in members if worth[j] < min(WORTH * best, chance) and float(sizes[j]) < SIZE * largest]
        shares = dict.fromkeys((j for j in members if j not in spare), 1)
        for j in spare:
            # A row that stands for k images has features k times as large as those of one.
            owner = max(shares, key=lambda i: float(sizes[i]) / shares[i])
            alike[j], shares[owner] = owner, shares[owner] + 1
    return alike


def separate_alike(
    errors: Float[Tensor, "n out"],
    gradient: Float[Tensor, "out features"],
    alike: Int[Tensor, " n"],
    *,
    guess: Float[Tensor, "n features"] | None = None,
    entry_model: EntryModel | None = None,
    ridge: float = 1e-6,
) -> FeatureEstimate:
    """Estimate the features with one row of features for all images that share a picture; see `separate`.

    Args:
        errors: The errors D times the gain; those of images that share a picture are equal.
        gradient: The received gradient of the head's first weight.
        alike: See `find_alike`.
        guess: Features of the present pictures; None for none.
        entry_model: The entry model of the gradient; None if all entries are equally certain.
        ridge: Ridge of the solve; see `separate`.
    """
    owners, place, counts = torch.unique(alike, return_inverse=True, return_counts=True)
    if len(owners) == len(alike):
        return separate(errors, gradient, guess=guess, entry_model=entry_model, ridge=ridge)
    found = separate(
        errors[owners] * counts[:, None],
        gradient,
        guess=None if guess is None else guess[owners],
        entry_model=entry_model,
        ridge=ridge,
    )
    return FeatureEstimate(found.features[place], errors, found.covariance[:, place][:, :, place], found.residual)


def said(alike: Int[Tensor, " n"]) -> list[str]:
    """Return a sentence for each picture that images share; images are counted from 1 in the order of the result."""
    groups = [(alike == owner).nonzero()[:, 0] + 1 for owner in torch.unique(alike)]
    return [
        f"Images {', '.join(str(int(number)) for number in group)} of the result could not be told apart: one picture "
        "explains their part of the update, as if the client held it more than once, so it is shown for each of them."
        for group in groups
        if len(group) > 1
    ]
