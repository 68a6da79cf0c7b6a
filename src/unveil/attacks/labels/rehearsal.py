"""Rehearsals: the update of the last layer that the client would send for public pictures and chosen labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import Module, Parameter

from unveil.attacks.labels.rows import ClassRows
from unveil.core.batch import Batch
from unveil.core.factored import dense
from unveil.core.protocols import LocalTraining


@dataclass(frozen=True, eq=False)
class Pool:
    """The slopes and the scores that the last layer has for each public picture.

    Args:
        slopes: Slopes of the class scores with respect to the rows, as in `ClassRows`.
        scores: The class scores, in logits.
        boost: Logits that are added to the score of a picture's label: 0 for an untrained model.
    """

    slopes: Float[Tensor, "pictures lines entries"]
    scores: Float[Tensor, "pictures out"]
    boost: float = 0.0

    def after_training(self, boost: float) -> Pool:
        """Return the pool for a trained model: it prefers no class on average, but each picture's label by `boost`.

        The scores must be changed because synthetic pictures belong to no class, and a trained model assigns all of
        them to the same few classes.

        Args:
            boost: By how many logits the model prefers a picture's label.
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
) -> Float[Tensor, "out entries"]:
    """Compute the client's update of the rows for these labels, on pictures of the pool.

    Only the last layer is trained, so the features of the pictures do not change.

    Args:
        training: The local training.
        rows: The last layer.
        pool: The public pictures.
        labels: A class index for each picture of the rehearsed batch.
        drawn: For each label the index of its picture in the pool.
        generator: Randomness of the noise that the client adds in training.
        noisy: Whether the client adds that noise.

    Returns:
        The update, one line for each class score, in the unit of the client's update.
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
    num_images: int, classes: int, rounds: int, *, near: Int[Tensor, " n"] | None, generator: Generator
) -> Iterator[Int[Tensor, " n"]]:
    """Draw labels for the rehearsals: from few classes or many, or similar to given labels.

    Args:
        num_images: Number of labels in each round, n.
        classes: Number of classes.
        rounds: Number of rounds.
        near: Labels of which about three quarters are kept in each round; None to draw all labels anew.
        generator: Randomness of the labels.

    Yields:
        A class index for each of n pictures, one tensor for each round.
    """
    for number in range(rounds):
        if near is None:
            # Labels drawn from fewer classes have more duplicates; the rehearsals need rounds with many and with few.
            num_allowed = max(1, round(classes ** ((number % 4 + 1) / 4)))
            allowed = torch.randperm(classes, generator=generator)[:num_allowed]
            labels = allowed[torch.randint(num_allowed, (num_images,), generator=generator)]
            if num_allowed == classes and number % 8 == 3:
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
    """The last layer as a separate network. A picture is the index of its slopes, as an n x 1 x 1 x 1 tensor."""

    def __init__(
        self,
        rows: Float[Tensor, "out entries"],
        slopes: Float[Tensor, "n lines entries"],
        scores: Float[Tensor, "n out"],
    ) -> None:
        super().__init__()
        self.rows = Parameter(rows)
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("rest", scores - _product(slopes, rows), persistent=False)

    def forward(self, places: Float[Tensor, "n 1 1 1"]) -> Float[Tensor, "n out"]:
        """Return the class scores of the pictures with these indices."""
        at = places.flatten().long()
        slopes, rest = self.get_buffer("slopes"), self.get_buffer("rest")
        return _product(slopes[at], self.rows) + rest[at]


def _product(slopes: Float[Tensor, "n lines entries"], rows: Float[Tensor, "out entries"]) -> Float[Tensor, "n out"]:
    """Multiply each class's row by its slopes; one line of slopes stands for all classes."""
    if slopes.shape[1] == 1:
        return slopes[:, 0] @ rows.T
    return torch.einsum("nce,ce->nc", slopes, rows)
