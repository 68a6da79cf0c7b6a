"""Normalisation in front of a network, so that the network takes pictures in [0, 1]; parameters keep their names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from unveil.core.errors import UsageError
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """The normalisation ``(picture - mean) / std`` with which a network was trained.

    Args:
        mean: Mean of each colour channel of pictures in [0, 1], or one number for all channels.
        std: Standard deviation of each colour channel, or one number; greater than 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Any, std: Any, *, channels: int) -> Normalisation:
        """Make a normalisation from numbers or lists of numbers, as an audit file has them.

        Args:
            mean: One number, or one per channel.
            std: One number, or one per channel.
            channels: Number of channels of the pictures.

        Raises:
            UsageError: There are too many or too few numbers, or they cannot be those of pictures in [0, 1].
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
        """Normalise the first of a network's inputs; used as a forward pre-hook."""
        images, *rest = inputs
        return self.apply(images), *rest

    def apply(self, images: Images) -> Images:
        """Return the normalised pictures."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std

    def __str__(self) -> str:
        return f"mean {_listed(self.mean)}, std {_listed(self.std)}"


def normalised(model: Module, normalisation: Normalisation) -> Module:
    """Add the normalisation to a network as a hook, which renames no parameter, and return the network."""
    model.register_forward_pre_hook(normalisation, prepend=True)
    return model


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _shown(given: object) -> str:
    text = str(given)
    return text if len(text) < 60 else text[:60] + "…"
