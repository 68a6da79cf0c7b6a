"""The part of a network before a convolution, whose input is the map that was found."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.arithmetic import rough_steps
from unveil.core.layouts import fast_layout
from unveil.core.network import run
from unveil.core.tracing import Cut, Reached
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True, eq=False)
class MapBody:
    """The network up to a convolution; see `Body`.

    Args:
        model: The network in the client's mode.
        convolution: Name of the convolution's weight.
        image_shape: (channels, height, width) of the pictures.
        feature_map: (channels, height, width) of the convolution's input.
        padded: Zeros that the network adds to that left, right, above and below, before the call of the convolution.
    """

    model: Module
    convolution: str
    image_shape: tuple[int, int, int]
    feature_map: tuple[int, int, int]
    padded: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.model.get_parameter(self.convolution).device

    def features(self, images: Images, *, rough: bool = False) -> Float[Tensor, "n features"]:
        """Compute the input of the convolution for pictures, flattened; differentiable.

        Args:
            images: The pictures, n x c x h x w in [0, 1].
            rough: Whether three digits are enough; see `rough_steps`.
        """
        # The cut is entered last, so that it sees each call before anything else does.
        with rough_steps(images) if rough else nullcontext():
            return self._computed(images, self._layout)

    @cached_property
    def _layout(self) -> torch.memory_format:
        return fast_layout(self._computed, self.image_shape, self.device)

    def _computed(self, images: Images, layout: torch.memory_format) -> Float[Tensor, "n features"]:
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        try:
            with Cut(weights[self.convolution]):
                run(self.model, images, weights, draws=None, layout=layout)
        except Reached as reached:
            left, _, above, _ = self.padded
            _, height, width = self.feature_map
            found = reached.features[:, :, above : above + height, left : left + width].flatten(1)
            return found.to(torch.promote_types(found.dtype, torch.float32))
        raise AssertionError("the convolution was not run")

    def as_maps(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n c h w"]:
        """Return flattened features as maps."""
        return features.reshape(-1, *self.feature_map)

    def without_draws(self) -> MapBody:
        """Return the same body: its draws are replaced by their means."""
        return self
