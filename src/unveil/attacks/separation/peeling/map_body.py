"""The part of a network before a convolution, whose input is the map that was found; and the maps found inside it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.inner_maps import Map
from unveil.core.arithmetic import rough_steps
from unveil.core.layouts import fast_layout
from unveil.core.network import run
from unveil.core.tracing import Cut, Reached
from unveil.core.types import Images


@dataclass(frozen=True, kw_only=True)
class InnerMap:
    """The input of a convolution inside a body.

    Args:
        convolution: Name of the convolution's weight.
        feature_map: (channels, height, width) of its input.
        padded: Zeros that the network adds to that left, right, above and below, before the call of the convolution.
    """

    convolution: str
    feature_map: tuple[int, int, int]
    padded: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class MapBody:
    """The network up to a convolution; see `Body` and `ComputesInnerMaps`.

    Args:
        model: The network in the client's mode.
        convolution: Name of the convolution's weight.
        image_shape: (channels, height, width) of the pictures.
        feature_map: (channels, height, width) of the convolution's input.
        padded: Zeros that the network adds to that left, right, above and below, before the call of the convolution.
        inner: Maps that the network computes on the way.
    """

    model: Module
    convolution: str
    image_shape: tuple[int, int, int]
    feature_map: tuple[int, int, int]
    padded: tuple[int, int, int, int] = (0, 0, 0, 0)
    inner: tuple[InnerMap, ...] = ()

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
        return self.features_and_inner(images, rough=rough)[0]

    def features_and_inner(
        self, images: Images, *, rough: bool = False
    ) -> tuple[Float[Tensor, "n features"], list[Map]]:
        """Compute the features and the inner maps; see `ComputesInnerMaps`."""
        # The cut is entered last, so that it sees each call before anything else does.
        with rough_steps(images) if rough else nullcontext():
            return self._computed(images, self._layout)

    @cached_property
    def _layout(self) -> torch.memory_format:
        return fast_layout(lambda images, layout: self._computed(images, layout)[0], self.image_shape, self.device)

    def _computed(self, images: Images, layout: torch.memory_format) -> tuple[Float[Tensor, "n features"], list[Map]]:
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        try:
            with Cut(weights[self.convolution], [weights[other.convolution] for other in self.inner]):
                run(self.model, images, weights, draws=None, layout=layout)
        except Reached as reached:
            inner = [
                _inside(found, other.feature_map, other.padded)
                for other, found in zip(self.inner, reached.passed, strict=True)
            ]
            return _inside(reached.features, self.feature_map, self.padded).flatten(1), inner
        raise AssertionError("the convolution was not run")

    def as_maps(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n c h w"]:
        """Return flattened features as maps."""
        return features.reshape(-1, *self.feature_map)

    def without_draws(self) -> MapBody:
        """Return the same body: its draws are replaced by their means."""
        return self


def _inside(found: Map, feature_map: tuple[int, int, int], padded: tuple[int, int, int, int]) -> Map:
    """Return a convolution's input without the zeros that the network added, at least in float32."""
    left, _, above, _ = padded
    _, height, width = feature_map
    inside = found[:, :, above : above + height, left : left + width]
    return inside.to(torch.promote_types(inside.dtype, torch.float32))
