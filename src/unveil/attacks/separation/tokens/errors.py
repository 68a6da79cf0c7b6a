"""The errors of each picture's tokens: the slope of the loss at the output of the patch embedding."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode

from unveil.core.calls import convolution_call, linear_call
from unveil.core.loss import MEAN, Loss
from unveil.core.network import run
from unveil.core.tracing import Tape
from unveil.core.types import Images


class TokenOutput(TorchFunctionMode):
    """Makes the output of a layer a leaf, so that it can be differentiated."""

    def __init__(self, weight: Float[Tensor, "width ..."]) -> None:
        super().__init__()
        self.weight = weight
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        linear, convolution = linear_call(func, args, kwargs), convolution_call(func, args, kwargs)
        used = (linear[1] if linear else None, convolution.weight if convolution else None)
        if not any(weight is self.weight for weight in used):
            return result
        self.outputs.append(result.detach().requires_grad_())
        return self.outputs[-1].clone()


def as_tokens(output: Float[Tensor, "n ..."], weight: Float[Tensor, "width ..."]) -> Float[Tensor, "n tokens width"]:
    """Return the output of a patch embedding, or its slope, with a row for each token.

    Args:
        output: A map of width channels behind a convolution, or rows behind a Linear layer.
        weight: The weight of the embedding.
    """
    if weight.dim() == 4:
        return output.flatten(2).transpose(1, 2)
    return output.reshape(len(output), -1, len(weight))


def token_errors(
    client: Module,
    images: Images,
    labels: Int[Tensor, " n"],
    *,
    embedding: str,
    last: str,
    loss: Loss = MEAN,
) -> tuple[Float[Tensor, "n tokens width"], Float[Tensor, "n features"]]:
    """Compute the errors of the tokens of each picture, and the features in front of the last Linear layer.

    Where pictures do not depend on each other, a picture's errors are its own part of the gradient of whatever is added
    to the tokens: the position embeddings' gradient is their sum over the pictures.

    Args:
        client: The network in the client's mode; it is not changed.
        images: The pictures, n x c x h x w in [0, 1].
        labels: The class index of each picture.
        embedding: Name of the patch embedding's weight.
        last: Name of the last Linear layer's weight.
        loss: The client's loss; it is taken as a mean over the pictures.
    """
    weights = {name: parameter.detach() for name, parameter in client.named_parameters()}
    output, tape = TokenOutput(weights[embedding]), Tape({id(weights[last]): last})
    with torch.enable_grad(), output, tape:
        logits = run(client, images, weights, draws=None)
        value = loss.mean(logits, labels)
    (slope,) = torch.autograd.grad(value, output.outputs[0])
    (_, features, _) = tape.seen[-1]
    return as_tokens(slope, weights[embedding]).float(), features.detach().float()
