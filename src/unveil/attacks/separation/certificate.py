"""The certificate of a separation: the gap behind the singular values that the batch's images give a gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

CLEAR = 0.5
"""Ratio of two neighbouring singular values above which there is no gap between them."""


def gap_after(gradient: Float[Tensor, "outputs features"], rank: int) -> float:
    """Return singular value `rank` + 1 over singular value `rank`, in [0, 1]; 0 if the gradient has no more of them.

    The gradient of a Linear layer that is read once for each image is a sum of one outer product an image, so its
    rank is at most the number of images (Zhu and Blaschko, R-GAP, ICLR 2021; Dimitrov et al., SPEAR, NeurIPS 2024).

    Args:
        gradient: The received gradient of the layer's weight.
        rank: Number of images, at least 1.
    """
    values = torch.linalg.svdvals(gradient.double())
    if len(values) <= rank:
        return 0.0
    return float(values[rank] / values[rank - 1]) if values[rank - 1] > 0 else 1.0


def certificate(gradient: Float[Tensor, "outputs features"], name: str, images: int) -> str:
    """Return a sentence on what the rank of a head's gradient says of the number of images.

    Args:
        gradient: The received gradient of the weight.
        name: The weight's name.
        images: Number of images.
    """
    if min(gradient.shape) <= images:
        return f"Certificate: none, as the gradient of {name} has no more rows or columns than the batch has images."
    gap = gap_after(gradient, images)
    if gap < CLEAR:
        return (
            f"Certificate: behind singular value {images} of the gradient of {name} the next is {gap:.0e} of it, so "
            f"that it is the gradient of {images} image{'s' if images > 1 else ''}, up to errors of that size."
        )
    return (
        f"Certificate: none, as the singular values of the gradient of {name} have no gap behind number {images} (the "
        f"next is {gap:.2f} of it): the noise is as large as the least of the images."
    )
