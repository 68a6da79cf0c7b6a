"""Normalisation in front of a network: it takes pictures in [0, 1], and its parameters keep the names they have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """(picture - mean) / std, as the network was trained with.

    Args:
        mean: One number a channel, or one for all, of pictures in [0, 1].
        std: The same; greater than 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Any, std: Any, *, channels: int) -> Normalisation:
        """From numbers or lists of them, as a file gives them, checked for pictures of `channels` channels.

        Raises:
            UsageError: Another number of values, or values that no pictures in [0, 1] have.
        """
        values = {}
        for name, given in (("mean", mean), ("std", std)):
            found = tuple(given) if isinstance(given, (list, tuple)) else (given,)
            numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in found)
            if len(found) not in (1, channels) or not numbers:
                raise UsageError(
                    f"normalise: expected {name} to be a number or {channels} of them, got {_shown(given)}; "
                    "give one a channel"
                )
            values[name] = tuple(float(v) for v in found)
        if min(values["std"]) <= 0 or max(map(abs, values["mean"] + values["std"])) > 10:
            raise UsageError(
                f"normalise: expected 0 < std and both for pictures in [0, 1], got mean {_shown(mean)}, "
                f"std {_shown(std)}; divide those of 8-bit pictures by 255"
            )
        return cls(mean=values["mean"], std=values["std"])

    def __call__(self, module: Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """As a forward pre-hook: the inputs with the pictures normalised."""
        images, *rest = inputs
        return self.apply(images), *rest

    def apply(self, images: Images) -> Images:
        """The normalised pictures."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std

    def __str__(self) -> str:
        return f"mean {_listed(self.mean)}, std {_listed(self.std)}"


def normalised(model: Module, normalisation: Normalisation) -> Module:
    """The network with the normalisation in front of it: a hook, so that no parameter is renamed."""
    model.register_forward_pre_hook(normalisation, prepend=True)
    return model


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _shown(given: object) -> str:
    text = str(given)
    return text if len(text) < 60 else text[:60] + "…"
