"""Types that most modules share."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

Tensors = Mapping[str, Float[Tensor, " ..."]]
"""Tensors by parameter name; they are never matched by position."""


Images = Float[Tensor, "n c h w"]
"""RGB pictures, float32 in [0, 1]; normalisation belongs to the model."""


Family = str
"""`none`, `quantise`, `sparsify`, `perturb`, `pipeline`, or a word of one's own, which reports draw as `other`."""


Block = tuple[slice, slice]
"""Some rows and columns of a matrix."""
