"""Rehearse the client's last layer: what it would send of it for labels that the attacker chose, on public pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from unveil.attacks.labels.rows import ClassRows
from unveil.core.factored import dense
from unveil.core.protocols import LocalTraining
from unveil.core.types import Batch


@dataclass(frozen=True, eq=False)
class Pool:
    """Public pictures as the last layer sees them.

    Args:
        slopes: Slopes of the class scores with respect to the rows, as in `ClassRows`.
        scores: The class scores.
        boost: What is added to the score of a picture's own class: 0 for a model that knows nothing of its pictures.
    """

    slopes: Float[Tensor, "pictures lines entries"]
    scores: Float[Tensor, "pictures outputs"]
    boost: float = 0.0

    def known(self, boost: float) -> Pool:
        """The same for a model that was trained: no class is preferred, and a picture's own class is by `boost`.

        Synthetic pictures are of no class, and a trained model takes all of them for the same few.
        """
        return replace(self, scores=self.scores - self.scores.mean(0), boost=boost)


def rehearse(
    training: LocalTraining,
    rows: ClassRows,
    pool: Pool,
    labels: Int[Tensor, " n"],
    drawn: Int[Tensor, " n"],
    *,
    generator: Generator,
    noisy: bool = False,
) -> Float[Tensor, "outputs entries"]:
    """The client's update of the rows for these labels, on pictures of the pool, whose features stay as they are.

    Args:
        training: The local training.
        rows: The last layer.
        pool: The pictures.
        labels: The labels.
        drawn: Which picture each label goes with.
        generator: The client's noise.
        noisy: With the noise that the client adds in training.
    """
    drawn = drawn.to(labels.device)
    slopes, scores = pool.slopes[drawn], pool.scores[drawn].clone()
    scores[torch.arange(len(labels), device=labels.device), labels] += pool.boost
    tail = _Tail(rows.values, slopes, scores)
    places = torch.arange(len(labels), device=labels.device).to(rows.values)[:, None, None, None]
    if noisy:
        return training(tail, Batch(places, labels), generator=generator)["rows"]
    return dense(training.simulate(tail, Batch(places, labels))["rows"]).detach()


def shuffled_labels(
    num_images: int, classes: int, rounds: int, *, near: Tensor | None, generator: Generator
) -> Iterator[Int[Tensor, " n"]]:
    """Labels to rehearse with: batches of one class, of all, and what is between; or near labels found before.

    Args:
        num_images: Labels a round.
        classes: Number of classes.
        rounds: How many.
        near: Labels, three quarters of which stay in each round; None for none.
        generator: Their randomness.
    """
    for number in range(rounds):
        if near is None:
            # The fewer classes may occur, the more duplicates there are.
            some = max(1, round(classes ** ((number % 4 + 1) / 4)))
            allowed = torch.randperm(classes, generator=generator)[:some]
            labels = allowed[torch.randint(some, (num_images,), generator=generator)]
            if some == classes and number % 8 == 3:
                labels = torch.randperm(classes, generator=generator).repeat(-(-num_images // classes))[:num_images]
        else:
            labels = near.cpu()[torch.randperm(num_images, generator=generator)]
            others = torch.randint(classes, (num_images,), generator=generator)
            others = torch.where(
                torch.rand(num_images, generator=generator) < 0.5,
                others,
                labels[torch.randint(num_images, (num_images,), generator=generator)],
            )
            labels = torch.where(torch.rand(num_images, generator=generator) < 0.25, others, labels)
        yield labels


class _Tail(Module):
    """The last layer as a network of its own. Its pictures are the places of their slopes."""

    def __init__(self, rows: Tensor, slopes: Tensor, scores: Tensor) -> None:
        super().__init__()
        self.rows = Parameter(rows)
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("rest", scores - _product(slopes, rows), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """Class scores."""
        at = places.flatten().long()
        slopes, rest = self.get_buffer("slopes"), self.get_buffer("rest")
        return _product(slopes[at], self.rows) + rest[at]


def _product(slopes: Tensor, rows: Tensor) -> Tensor:
    if slopes.shape[1] == 1:
        return slopes[:, 0] @ rows.T
    return torch.einsum("nce,ce->nc", slopes, rows)
