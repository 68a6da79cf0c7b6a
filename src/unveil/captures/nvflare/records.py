"""Reading and writing the arrays of NVFlare's messages, and what else they say."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from unveil.captures.facts import Fact
from unveil.captures.observed_facts import observed_fact
from unveil.captures.recording import Arrays


def tensors_of(arrays: Mapping[str, Any]) -> dict[str, Shaped[Tensor, " ..."]]:
    """Return copies of arrays of NumPy or torch as tensors, by name in their order.

    Raises:
        TypeError: One is neither, or of a type that torch does not have.
    """
    return {
        name: array.detach().cpu().clone() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
        for name, array in arrays.items()
    }


def arrays_like(tensors: Arrays, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors as the kind of arrays that were given, torch's or NumPy's."""
    return {name: t if isinstance(given[name], Tensor) else t.numpy() for name, t in tensors.items()}


def framework() -> dict[str, Fact[Any]]:
    """Return the facts of the software of the federation."""
    return {
        "framework": observed_fact("framework", "nvflare"),
        "framework_version": observed_fact("framework_version", version("nvflare")),
    }
