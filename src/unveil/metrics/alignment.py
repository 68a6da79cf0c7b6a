"""Alignment: putting reconstructions into the order of the batch, which an update does not contain."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.reconstruction import FeatureFit, Reconstruction
from unveil.core.types import Images


def align(originals: Images, guess: Reconstruction) -> Reconstruction:
    """Match reconstructions to originals one to one, at the lowest total mean squared error.

    The matching is one to one because a good picture that is matched to several originals would count as several leaks.

    Args:
        originals: The private pictures, in batch order.
        guess: The reconstruction, in the attack's own order.

    Returns:
        The same reconstruction with pictures, labels, confidence and evidence in batch order. `evidence.chi_squared` is
        None, because that function needs the attack's order.

    Raises:
        UsageError: The numbers of reconstructions and originals differ.

    Reference:
        Kuhn, The Hungarian Method for the Assignment Problem, Naval Research Logistics Quarterly 1955.
    """
    from scipy.optimize import linear_sum_assignment

    if len(originals) != len(guess.images):
        raise UsageError(
            f"align: expected one reconstruction an original, got {len(guess.images)} for {len(originals)}; "
            "the attack must return as many pictures as the knowledge says the batch holds"
        )
    rebuilt = guess.images.detach().to(originals.device, torch.float64).flatten(1)
    cost = torch.stack([(rebuilt - row).square().mean(1) for row in originals.double().flatten(1)])
    return reordered(guess, torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]))


def reordered(guess: Reconstruction, order: Int[Tensor, " n"]) -> Reconstruction:
    """Return the same reconstruction with its pictures, labels, confidence and evidence in another order.

    Args:
        guess: The reconstruction.
        order: For each new place, the picture's index in `guess`.
    """

    def sorted_(values: Shaped[Tensor, " n *rest"]) -> Shaped[Tensor, " n *rest"]:
        return values[order.to(values.device)]

    evidence = guess.evidence
    return replace(
        guess,
        images=sorted_(guess.images),
        labels=sorted_(guess.labels),
        confidence=None if guess.confidence is None else sorted_(guess.confidence),
        evidence=None if evidence is None else FeatureFit(noise=sorted_(evidence.noise), miss=sorted_(evidence.miss)),
    )
