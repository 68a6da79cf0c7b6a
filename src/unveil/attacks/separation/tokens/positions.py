"""The learned position embeddings of a network: the parameter whose gradient is the error of each token.

A parameter that is added to the tokens has the tokens' own gradient. So the network is run once with random weights,
the output of the patch embedding and all parameters are differentiated, and rows that are equal to a token's are
looked up. This needs no names, and finds the order of the tokens and leaves out the row of a class token. Random
weights are used because the public ones may hide the tokens: a head that starts at zero sends no gradient back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.tokens.embedding import PatchEmbedding
from unveil.attacks.separation.tokens.errors import TokenOutput, as_tokens
from unveil.core.network import run

EQUAL = 1e-3  # largest relative difference between a token's gradient and that of its position
SPREAD = 0.02  # standard deviation of what is added to each weight


@dataclass(frozen=True, eq=False)
class Positions:
    """A parameter that is added to the tokens.

    Args:
        name: Its name.
        rows: The row of each token, in the parameter as a matrix with a row for each position.
        channels_first: Whether the parameter's first axis but ones is the width, as in (1, width, height, width).
    """

    name: str
    rows: Int[Tensor, " tokens"]
    channels_first: bool

    def errors(self, gradient: Shaped[Tensor, "*shape"], width: int) -> Float[Tensor, "tokens width"]:
        """Return the slope of the loss at each token's embedding, from the gradient of the parameter."""
        return _as_rows(gradient, width, self.channels_first)[self.rows]


def _as_rows(tensor: Shaped[Tensor, "*shape"], width: int, channels_first: bool) -> Float[Tensor, "positions width"]:
    return tensor.reshape(width, -1).T if channels_first else tensor.reshape(-1, width)


def read_positions(
    client: Module, embedding: PatchEmbedding, image_shape: tuple[int, int, int], *, sent: Collection[str]
) -> Positions | None:
    """Find the parameter that is added to the tokens of a patch embedding.

    Args:
        client: The network in the client's mode; it is not changed.
        embedding: Its patch embedding.
        image_shape: (channels, height, width) of its pictures.
        sent: Names of the parameters in the update.

    Returns:
        The parameter; None if there is no parameter in the update with a row of its own for each token.
    """
    chance = torch.Generator().manual_seed(0)

    def noise(like: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        return torch.randn(like.shape, generator=chance).to(like)

    own = {name: p for name, p in client.named_parameters() if p.is_floating_point()}
    trained = [name for name, p in own.items() if p.requires_grad and name in sent and p.dim() > 1]
    weights = {name: (p.detach() + SPREAD * noise(p)).requires_grad_() for name, p in own.items()}
    weight = weights[embedding.weight]
    images = torch.rand((1, *image_shape), generator=chance).to(weight.device)
    mode = TokenOutput(weight)
    with torch.enable_grad(), mode:
        logits = run(client, images, dict(weights), draws=None)
    output = mode.outputs[0] if mode.outputs else None
    if output is None or not isinstance(logits, Tensor):
        return None
    tokens, width = len(embedding.pixels), len(weight)
    candidates = [n for n in trained if weights[n].numel() % width == 0 and weights[n].numel() >= tokens * width]
    if not candidates:
        return None
    slopes: Sequence[Tensor | None] = torch.autograd.grad(
        (logits * noise(logits)).sum(), [output, *(weights[n] for n in candidates)], allow_unused=True
    )
    found = slopes[0]
    if found is None:
        return None
    wanted = as_tokens(found, weight)[0]
    for name, slope in zip(candidates, slopes[1:], strict=True):
        if slope is None or len(wanted) != tokens:
            continue
        for channels_first in (False, True):
            off = torch.cdist(wanted.double(), _as_rows(slope, width, channels_first).double())
            nearest, rows = off.min(1)
            if bool((nearest <= EQUAL * wanted.double().norm(dim=1)).all()) and len(set(rows.tolist())) == tokens:
                return Positions(name, rows, channels_first)
    return None
