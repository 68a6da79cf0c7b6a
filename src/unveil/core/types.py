"""Aliases of types that most modules share."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

Tensors = Mapping[str, Float[Tensor, " ..."]]
"""Tensors by parameter name; they are never matched by position."""


Images = Float[Tensor, "n c h w"]
"""Pictures of one channel (grey) or three (RGB), float32 in [0, 1]; normalisation is part of the model."""


Family = str
"""Family of an obfuscation: `none`, `quantise`, `sparsify`, `low-rank`, `perturb`, `pipeline`, or another word, which
reports draw as `other`."""


Block = tuple[slice, slice]
"""(rows, columns): a block of a matrix."""
