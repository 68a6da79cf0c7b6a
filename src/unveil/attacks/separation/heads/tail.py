"""The head of a network as a network of its own, which can be trained and watched on features alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.core.network import as_taken, in_mode
from unveil.core.tracing import Feed, Maps


class Tail(Module):
    """Features -> logits: the body runs on blank pictures, and the features take the place of its output.

    The layers behind the features run in the mode of this module. The layers before them run in eval mode on one blank
    picture, and convolutions only in the first run, which takes little time, unless `exact` is set. What they return
    has no effect.

    Args:
        model: The network.
        weight: Name of the first Linear weight behind the features.
        image_shape: (channels, height, width) of the network's pictures.
        exact: Whether the body runs in the mode of this module too, with one picture for each row of features. Then the
            head makes the same random draws as in the client's own run.
    """

    def __init__(self, model: Module, weight: str, image_shape: tuple[int, int, int], *, exact: bool = False) -> None:
        super().__init__()
        self.model = in_mode(model, "train" if model.training else "eval")
        self.training = model.training
        self.weight = weight
        self.image_shape = image_shape
        self.exact = exact
        self.maps: Maps | None = None if exact else []

    def forward(self, features: Float[Tensor, " n *features"]) -> Float[Tensor, " ..."]:
        """Compute the logits of features: n x classes if the network can be cut here.

        Args:
            features: The features of each image, which are flattened to one row.
        """
        modes = {module: module.training for module in self.model.modules()}

        def clients_mode() -> None:
            for module, training in modes.items():
                module.training = training

        pictures = features.new_zeros((len(features) if self.exact else 1, *self.image_shape), dtype=torch.float32)
        pictures = as_taken(self.model, pictures)
        if not self.exact:
            for module in modes:
                module.training = False
        try:
            with Feed(named(self.model, self.weight), features.flatten(1), clients_mode, self.maps):
                logits: Tensor = self.model(pictures)
        finally:
            clients_mode()
        return logits


def named(model: Module, name: str) -> Float[Tensor, "out inside"]:
    """Return a Linear weight by its dotted name: the tensor that `functional_call` put in its place, if it did."""
    found: Any = model
    for part in name.split("."):
        found = getattr(found, part)
    tensor: Tensor = found
    return tensor
