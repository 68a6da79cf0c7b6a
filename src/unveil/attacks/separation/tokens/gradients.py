"""The received gradients of a transformer's patch and position embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from unveil.attacks.separation.state import Problem
from unveil.attacks.separation.tokens.embedding import PatchEmbedding, read_embedding
from unveil.attacks.separation.tokens.positions import Positions, read_positions
from unveil.core.network import in_mode
from unveil.core.update import Update


class NoTokensError(Exception):
    """Pictures cannot be read from token gradients; the message says why, and is empty for other networks."""


@dataclass(frozen=True, eq=False)
class TokenGradients:
    """The received gradients of the patch and the position embeddings.

    Args:
        client: The network in the client's mode.
        embedding: The patch embedding.
        place: The position embeddings.
        weight: The gradient of the patch embedding's weight, in double precision.
        errors: That of the position of each token: the sum of the tokens' errors over the batch.
    """

    client: Module
    embedding: PatchEmbedding
    place: Positions
    weight: Float[Tensor, "width entries"]
    errors: Float[Tensor, "tokens width"]

    @property
    def positions(self) -> str:
        """Name of the position embeddings."""
        return self.place.name

    def tokens_of(self, update: Update) -> Float[Tensor, "tokens width"]:
        """Return the gradient of the position of each token in another update of the same network."""
        return self.place.errors(update.tensors[self.place.name], len(self.weight))


def read_gradients(problem: Problem) -> TokenGradients:
    """Return the received gradients of the patch and the position embeddings.

    Raises:
        NoTokensError: The network or the update has no such gradients.
    """
    knowledge, received = problem.knowledge, problem.update.tensors
    client = in_mode(problem.model, knowledge.training.mode)
    embedding = read_embedding(client, knowledge.image_shape)
    if embedding is None:
        raise NoTokensError("")
    which = "picture was" if knowledge.num_images == 1 else "pictures were"
    if embedding.weight not in received:
        raise NoTokensError(f"The update does not hold the network's patch embedding ({embedding.weight}).")
    positions = read_positions(client, embedding, knowledge.image_shape, sent=set(received))
    if positions is None:
        raise NoTokensError(
            f"The network cuts the picture into {len(embedding.pixels)} patches ({embedding.weight}), but the update "
            f"holds no learned position embeddings that are added to them, so the tokens' errors are not known: the "
            f"{which} not read from them."
        )
    weight = received[embedding.weight].double().flatten(1)
    errors = positions.errors(received[positions.name].double(), len(weight))
    if not bool(errors.any()) or not bool(weight.any()):
        raise NoTokensError(
            f"The gradients of the patch embedding ({embedding.weight}) and of the position embeddings "
            f"({positions.name}) say nothing, because one of them is zero: the {which} not read from them."
        )
    return TokenGradients(client, embedding, positions, weight, errors)
