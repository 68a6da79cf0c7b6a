"""The batch separated behind a trained head: rows of errors found by their closed gates, with the lengths that fit.

`closed_gates.py` finds the rows of D up to their lengths. Least squares gives the features up to the same lengths,
``A_b = a_b / s``. The length s is right where the last layer's errors at ``a_b / s`` are s times those of the row.
Behind an untrained head, whose class probabilities are nearly equal, the alternations of `factorisation.py` leave
nothing unexplained, and nothing is changed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from unveil.attacks.separation.closed_gates import SparseRows, column_space, find_rows
from unveil.attacks.separation.factorisation import FeatureEstimate, separate
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.tuning import ClosedGatesTuning
from unveil.core.protocols import EntryModel

OUTPUTS = 16  # outputs of the first layer for each class from which on its rows determine the errors of the last
LENGTHS = 2000  # lengths that are tried for each row, by equal factors, and again about the best of them
SHORTEST = -7.0  # logarithm to base 10 of the smallest of them, in units of the longest possible
EXACT = 1e-6  # least relative error of a row: float32 resolves no less
RIDGE = 1e-9  # of the solve for the features of single rows, which are never parallel


def separate_trained(
    head: Head,
    gradient: Float[Tensor, "out features"],
    labels: Int[Tensor, " n"],
    separated: FeatureEstimate,
    *,
    gain: float,
    usual: float,
    entry_model: EntryModel | None,
    misfit: Callable[[Float[Tensor, "n out"], Float[Tensor, "n features"]], float],
    tuning: ClosedGatesTuning,
) -> FeatureEstimate:
    """Separate the batch by its closed gates where the given separation leaves more unexplained than it has to.

    Args:
        head: The head.
        gradient: The received gradient of the head's first weight.
        labels: The class index of each image.
        separated: The separation by alternations.
        gain: Ratio of the update's length to that of one gradient.
        usual: Root mean square of the features of ordinary pictures.
        entry_model: The entry model of the gradient; None if all entries are equally certain.
        misfit: (errors, guess of the features) -> how badly the best features near the guess explain the gradient with
            these errors; see `FeatureRefiner.misfit`.
        tuning: The constants of the search by closed gates.

    Returns:
        The separation that leaves less of the gradient unexplained. An image whose row was not found has zero errors.
    """
    gated = len(head.weights) == 2 and head.is_gated and not head.is_guessed
    if not gated or separated.residual < tuning.explained or len(gradient) < OUTPUTS * len(head.weight(1)):
        return separated
    # The draws are its own, so that a head on which nothing is changed leaves the attack's generator as it was.
    generator = Generator(gradient.device).manual_seed(0)
    _, share = column_space(gradient, len(labels), rounds=1, generator=generator)
    if separated.residual < tuning.worth * (1 - share):
        return separated
    space, _ = column_space(gradient, len(labels), rounds=tuning.space_rounds, generator=generator)
    weight = head.weight(1) * head.open_slope(1)
    found = find_rows(space, weight, labels, tuning=tuning, generator=generator)
    if not len(found.rows):
        return separated
    rows = found.rows.to(gradient)
    single = separate(rows, gradient, ridge=RIDGE)
    if entry_model is not None:
        single = separate(rows, gradient, guess=single.features, entry_model=entry_model, ridge=RIDGE)
    lengths = lengths_of(head, single, found, share=gain / len(labels), usual=usual, tuning=tuning)
    errors = torch.zeros_like(separated.errors)
    errors[placed(found, labels, separated.errors)] = rows * lengths[:, None]
    other = separate(errors, gradient, ridge=tuning.ridge)
    guess = head.allowed(separated.features)
    return other if misfit(other.errors, guess) < misfit(separated.errors, guess) else separated


def placed(found: SparseRows, labels: Int[Tensor, " n"], errors: Float[Tensor, "n out"]) -> list[int]:
    """Return an image of the same class for each row: of those left over, the one whose given errors are most like it.

    Args:
        found: The rows, at most as many of a class as there are images of it.
        labels: The class index of each image.
        errors: Errors of the images from another separation.
    """
    alike = found.rows.to(errors) @ F.normalize(errors, dim=1).T
    alike = torch.where(found.labels[:, None] == labels, alike, -torch.inf)
    places: list[int] = []
    for row in alike:
        row[places] = -torch.inf
        places.append(int(row.argmax()))
    return places


def lengths_of(
    head: Head,
    single: FeatureEstimate,
    found: SparseRows,
    *,
    share: float,
    usual: float,
    tuning: ClosedGatesTuning,
) -> Float[Tensor, " found"]:
    """Return the length s of each row: at ``features / s`` the last layer's errors are s times those of the row.

    The gates are those of the row, so the logits at ``features / s`` are ``constant + slope / s``. In noise two lengths
    may fit, one of a certain and one of an uncertain image. So features of unusual size are made less likely.

    Args:
        head: The head.
        single: The features that go with rows of length 1.
        found: The rows.
        share: Weight of one image's loss in the update: the gain divided by the number of images.
        usual: Root mean square of the features of ordinary pictures.
        tuning: The constants of the search by closed gates.
    """
    features, weight, opened = single.features, head.weight(1), head.open_slope(1)
    blank = torch.cat([features, torch.zeros_like(features[:1])])
    first, second = head.layers(blank, torch.cat([found.labels, found.labels[:1]]))
    pre, post = first.outputs, second.inputs
    shift = torch.where(post > 0, post - opened * pre, 0).gather(0, post.argmax(0, keepdim=True))[0]
    bias = (second.outputs - post @ weight.T)[-1]
    gates = (found.rows != 0).to(features)
    constant = (gates * (opened * pre[-1] + shift)) @ weight.T + bias
    slope = (gates * opened * (pre[:-1] - pre[-1])) @ weight.T
    last = found.errors.to(features)
    size = last.norm(dim=1)
    labels = found.labels
    noise = single.covariance.diagonal(dim1=-2, dim2=-1).mean(0)
    energy = features.square().mean(1)
    energy = torch.maximum(energy - noise, 1e-3 * energy)
    expected = (tuning.row_trust * found.off.to(features)).clamp_min(EXACT)
    longest = share * math.sqrt(2) / size
    centre = math.log(usual)

    def best(steps: Float[Tensor, "lengths found"], spread: float) -> Float[Tensor, " found"]:
        lengths = longest * 10**steps
        computed = share * head.loss.mean.slopes(constant + slope / lengths[..., None], labels)
        off = (computed / lengths[..., None] - last).norm(dim=-1) / size
        unusual = (energy.sqrt() / lengths).log() - centre
        score = (off / expected).square() + (unusual / spread).square()
        found: Tensor = steps.gather(0, score.argmin(0, keepdim=True))[0]
        return found

    grid = torch.linspace(SHORTEST, 0, LENGTHS, dtype=features.dtype, device=features.device)
    coarse = grid[:, None].expand(-1, len(features))
    at = best(coarse, tuning.first_size_spread)
    centre = float((energy.sqrt() / (longest * 10**at)).log().median())
    at = best(coarse, tuning.size_spread)
    finer = torch.linspace(-1, 1, LENGTHS, dtype=features.dtype, device=features.device) * (grid[1] - grid[0])
    chosen: Tensor = longest * 10 ** best(at + finer[:, None], tuning.size_spread)
    return chosen
