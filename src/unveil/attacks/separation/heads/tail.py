"""The head of a network as a network of its own, for training and watching it on features alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from unveil.core.network import as_taken, in_mode
from unveil.core.tracing import Feed


class Tail(Module):
    """Features -> logits: the body runs on a blank picture and what it makes is replaced by the features.

    Layers behind the features run in the mode that this module is in. Those before them run in eval mode on one blank
    picture, which is cheap, unless their draws count.

    Args:
        model: The network.
        weight: Name of the first Linear weight behind the features.
        image_shape: (channels, height, width) of its pictures.
        exact: The body runs in the client's mode on as many pictures as there are features, so that the head draws the
            same numbers by chance as in the client's own run.
    """

    def __init__(self, model: Module, weight: str, image_shape: tuple[int, int, int], *, exact: bool = False) -> None:
        super().__init__()
        self.model = in_mode(model, "train" if model.training else "eval")
        self.training = model.training
        self.weight = weight
        self.image_shape = image_shape
        self.exact = exact

    def forward(self, features: Tensor) -> Tensor:
        """Logits of features."""
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
            with Feed(named(self.model, self.weight), features.flatten(1), clients_mode):
                logits: Tensor = self.model(pictures)
        finally:
            clients_mode()
        return logits


def named(model: Module, name: str) -> Tensor:
    """A parameter by its dotted name, also while `functional_call` has put another tensor in its place."""
    found: Any = model
    for part in name.split("."):
        found = getattr(found, part)
    tensor: Tensor = found
    return tensor
