"""Put reconstructions into the order of the batch: an update does not say which picture came first."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from unveil.core.errors import UsageError
from unveil.core.types import FeatureFit, Images, Reconstruction


def align(originals: Images, guess: Reconstruction) -> Reconstruction:
    """Match reconstructions to originals one to one, at the lowest total mean squared error.

    One to one matters: one good picture matched to several originals would count as several leaks.

    Args:
        originals: The private pictures, in batch order.
        guess: What an attack rebuilt, in its own order.

    Returns:
        The same reconstruction, its pictures, labels, confidence and evidence in batch order; the evidence can no
        longer be asked, for it knows the attack's order only.

    Raises:
        UsageError: There are not as many reconstructions as originals.

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
    """The same reconstruction with everything it says of single pictures in another order."""

    def sorted_(values: Tensor) -> Tensor:
        return values[order.to(values.device)]

    evidence = guess.evidence
    return replace(
        guess,
        images=sorted_(guess.images),
        labels=sorted_(guess.labels),
        confidence=None if guess.confidence is None else sorted_(guess.confidence),
        evidence=None if evidence is None else FeatureFit(noise=sorted_(evidence.noise), miss=sorted_(evidence.miss)),
    )
