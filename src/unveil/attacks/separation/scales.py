"""The scale of errors whose direction alone is known, from the gradient of a bias.

The gradient of a bias is the sum of the errors over the images, each once, where that of the weight has them times the
features. So a bias at the same layer gives the scales of its errors. Otherwise the next Linear layer does: between the
two stands nothing but an activation like ReLU, which hands a factor through.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.heads.tail import Tail
from unveil.core.least_squares import least_squares
from unveil.core.network import run
from unveil.core.tracing import Cut, Reached
from unveil.core.types import Tensors

SAME = 1e-4  # relative difference up to which an activation hands a factor through


@dataclass(frozen=True, kw_only=True, eq=False)
class Behind:
    """What stands behind a Linear layer, up to the next one.

    Args:
        client: The network in the client's mode.
        first: Name of the layer's weight.
        second: Name of the weight of the next Linear layer that is run; None if there is none.
        image_shape: (channels, height, width) of the pictures.
    """

    client: Module
    first: str
    second: str | None
    image_shape: tuple[int, int, int]

    def inputs(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n inside"] | None:
        """Compute the next layer's inputs from the layer's; None unless a factor of one is a factor of the other."""
        if self.second is None:
            return None
        once, twice = (self._run(factor * features) for factor in (1.0, 2.0))
        if once is None or twice is None or once.dim() != 2 or len(once) != len(features):
            return None
        return once if float((twice - 2 * once).norm()) <= SAME * float(twice.norm()) else None

    def _run(self, features: Float[Tensor, "n features"]) -> Float[Tensor, " ..."] | None:
        assert self.second is not None
        try:
            with torch.no_grad(), Cut(self.client.get_parameter(self.second)):
                run(Tail(self.client, self.first, self.image_shape), features, {}, draws=None)
        except Reached as reached:
            return reached.features
        return None


def scales_of(
    errors: Float[Tensor, "n out"],
    features: Float[Tensor, "n features"],
    behind: Behind,
    received: Tensors,
    *,
    usual: float,
) -> tuple[Float[Tensor, " n"], str]:
    """Return the factor by which each row of the errors is too small, and a sentence that says from where it is known.

    Args:
        errors: The errors of the layer, up to the factors.
        features: The features that go with them.
        behind: What stands behind the layer.
        received: The received update.
        usual: Length of the features of a usual picture, which is taken where no bias tells the scales.
    """
    own = _bias(behind.first, received)
    if own is not None:
        scales = _solved(errors, own)
        if bool((scales > 0).all()):
            return scales, "The gradient of its bias gave the scale of the features."
    inputs, second = behind.inputs(features), behind.second or ""
    following = _bias(second, received)
    if inputs is not None and following is not None and second in received:
        pulls: Tensor = least_squares(inputs.T.double(), received[second].double().T)
        scales = _solved(pulls, following)
        if bool((scales > 0).all()):
            return scales.to(errors), "The gradient of the next layer's bias gave the scale of the features."
    guessed = features.norm(dim=1) / usual
    return guessed, "The scale of the features is not known; that of synthetic pictures was taken."


def _bias(weight: str, received: Tensors) -> Float[Tensor, " out"] | None:
    """Return the received gradient of the bias beside a weight; None if there is none."""
    bias = received.get(weight.removesuffix("weight") + "bias")
    return bias if bias is not None and bias.dim() == 1 and bool(bias.any()) else None


def _solved(rows: Float[Tensor, "n out"], total: Float[Tensor, " out"]) -> Float[Tensor, " n"]:
    """Return the factors with which the rows add up to the total, by least squares."""
    factors: Tensor = least_squares(rows.T.double(), total.double()[:, None])[:, 0]
    return factors.to(rows)
