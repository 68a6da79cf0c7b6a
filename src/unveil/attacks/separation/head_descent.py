"""The errors of a head's first Linear layer from those of its last one, layer by layer, before there are pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.weighted_lstsq import solve
from unveil.core.protocols import EntryModel
from unveil.core.spectra import eigh

Unknown = Sequence[Bool[Tensor, " _"]]
"""For each Linear layer of a head the inputs of which the update says nothing; see `unknown_columns`."""


def descend_head(
    head: Head,
    gradients: list[Float[Tensor, "_ _"]],
    errors: Float[Tensor, "n classes"],
    *,
    gain: float,
    tuning: FactorisationTuning,
    unknown: Unknown = (),
) -> tuple[Float[Tensor, "n out"], Float[Tensor, "n out"] | None]:
    """Compute the errors of the first Linear layer from those of the last, layer by layer.

    The slope of each activation on the way is that at the inputs of the layer behind it, which are solved for from the
    gradient of that layer. Where nothing is known of an input, its unit is taken to be open.

    Args:
        head: The head.
        gradients: The received gradient of each of the head's weights, first to last.
        errors: The errors of the last layer, without the gain.
        gain: Ratio of the update's length to that of one gradient.
        tuning: The constants of the factorisation.
        unknown: See `unknown_columns`; empty if something was sent of every column.

    Returns:
        The errors of the first layer without the gain, and those if all gates were open; None instead of the latter for
        a head of one layer.
    """
    opened = None
    for layer in range(len(gradients) - 1, 0, -1):
        inputs = solve(errors, gradients[layer] / gain, tuning.first_ridge)
        if head.is_gated:
            inputs = lift(inputs, errors, weak_equation=tuning.weak_equation)
        opened = errors @ head.weight(layer)
        slope = head.slope_of(layer, inputs)
        errors = opened * (torch.where(unknown[layer], head.open_slope(layer), slope) if unknown else slope)
    return errors, opened


def unknown_columns(
    gradients: Sequence[Float[Tensor, "_ _"]], entry_models: Sequence[EntryModel | None]
) -> list[Bool[Tensor, " _"]]:
    """Return for each Linear layer of the head the inputs of which the update says nothing.

    They are those of whose column of the gradient nothing was sent, whatever its values are, and all inputs of a layer
    whose gradient is zero. Behind an obfuscation that leaves out small entries a column that was not sent is small.

    Args:
        gradients: The received gradient of each of the head's weights, first to last.
        entry_models: The entry model of each of them; None if all entries are equally certain.
    """
    found: list[Bool[Tensor, " _"]] = []
    for gradient, entry_model in zip(gradients, entry_models, strict=True):
        nothing = gradient.new_full((gradient.shape[1],), not bool(gradient.any()), dtype=torch.bool)
        if entry_model is not None and found:  # of the first layer's inputs no slope is looked up
            _, weight = entry_model(torch.zeros_like(gradient), (slice(None), slice(None)))
            nothing = nothing | (weight == 0).all(0)
        found.append(nothing)
    return found


def lift(
    inputs: Float[Tensor, "n inside"], errors: Float[Tensor, "n out"], *, weak_equation: float
) -> Float[Tensor, "n inside"]:
    """Add to inputs behind ReLU the part that the equations do not determine, so that each unit's smallest value is 0.

    If every class is in the batch about equally often, errors from equal probabilities add up to about 0, so the
    equations do not determine the mean of a unit over the images. But the outputs of ReLU are never negative, and a
    unit is seldom open for all images.

    Args:
        inputs: The inputs of a Linear layer that were solved for from its gradient, one row for each image.
        errors: The errors of this layer, which were known in the solve.
        weak_equation: Ratio of the smallest eigenvalue to the mean one up to which an equation determines nothing.

    Returns:
        The inputs; unchanged if the equations determine them all, or if images have different signs in the part that
        is not determined.
    """
    values, vectors = eigh(errors @ errors.T)
    direction = vectors[:, 0] * vectors[:, 0].sum().sign()
    if values[0] > weak_equation * values.mean() or float(direction.min()) <= 0:
        return inputs
    lifted: Tensor = inputs + direction[:, None] * (-inputs / direction[:, None]).amax(0)
    return lifted
