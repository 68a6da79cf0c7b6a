"""One component of every kind, as somebody who has never seen unveil's source would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

import unveil as uv
from unveil.core.factored import Candidate, dense
from unveil.core.protocols import Misfit
from unveil.core.registry import spec_of
from unveil.core.types import Tensors
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Divide every entry by a power of two, which the server knows.

    Args:
        times: How many halvings.
    """

    name: ClassVar[str] = "halving"
    family: ClassVar[str] = "scaling"
    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError("times below zero")

    def __call__(self, update: uv.Update, *, generator: Generator) -> uv.Update:
        """Halve."""
        return replace(update, tensors={n: t / 2**self.times for n, t in update.tensors.items()})

    def misfit(self, received: uv.Update, *, sent_only: bool = False) -> Misfit:
        """The squared distance to what was received, doubled back."""
        size = sum(t.square().sum() for t in received.tensors.values()).clamp_min(1e-30)

        def judge(candidate: Candidate) -> Tensor:
            off = (dense(candidate[n]) / 2**self.times - t for n, t in received.tensors.items())
            return torch.stack([d.square().sum() for d in off]).sum() / size

        return judge

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Nameless:
    """`Halving` without a short name."""

    family: ClassVar[str] = "scaling"
    times: int = 1

    def __call__(self, update: uv.Update, *, generator: Generator) -> uv.Update:
        """Halve."""
        return Halving(times=self.times)(update, generator=generator)

    def misfit(self, received: uv.Update, *, sent_only: bool = False) -> Misfit:
        """As `Halving`."""
        return Halving(times=self.times).misfit(received, sent_only=sent_only)

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Impostor:
    """`Nameless` under a name of unveil's."""

    name: ClassVar[str] = "topk"
    family: ClassVar[str] = "scaling"
    times: int = 1

    __call__ = Nameless.__call__
    misfit = Nameless.misfit
    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Template:
    """The same grey picture for every image, whatever was received.

    Args:
        grey: How light, 0 to 1.
    """

    name: ClassVar[str] = "template"
    grey: float = 0.4

    def __call__(
        self,
        model: nn.Module,
        update: uv.Update,
        knowledge: uv.Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> uv.Reconstruction:
        """Draw."""
        images = torch.full((knowledge.num_images, *knowledge.image_shape), self.grey)
        labels = knowledge.labels
        if labels is None:
            labels = torch.zeros(knowledge.num_images, dtype=torch.long)
        if self.grey > 1:
            raise ArithmeticError("too light")
        return uv.Reconstruction(images=images, labels=labels, losses=[0.0])

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Lighter:
    """Every picture a little lighter.

    Args:
        by: How much.
    """

    name: ClassVar[str] = "lighter"
    is_faithful: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = False
    assumptions: ClassVar[tuple[str, ...]] = ("Pictures are light.",)
    by: float = 0.1

    def __call__(self, guess: uv.Reconstruction, *, class_names: Sequence[str] = ()) -> uv.Reconstruction:
        """Lighten."""
        return replace(guess, images=(guess.images + self.by).clamp(0, 1))

    __str__ = spec_of


@dataclass(frozen=True, kw_only=True)
class Double:
    """One gradient step, sent twice as long."""

    name: ClassVar[str] = "double"
    mode: ClassVar[Literal["eval"]] = "eval"

    def __call__(self, model: nn.Module, batch: uv.Batch, *, generator: Generator | None = None) -> Tensors:
        """The client's side."""
        return {n: 2 * t for n, t in uv.FedSGD()(model, batch).items()}

    def simulate(self, model: nn.Module, batch: uv.Batch, *, draws: int | None = 0) -> Candidate:
        """The attacker's side."""
        return {n: 2 * dense(t) for n, t in uv.FedSGD().simulate(model, batch, draws=draws).items()}

    __str__ = spec_of


def worst(originals: Tensor, images: Tensor) -> Tensor:
    """The largest difference of a pixel, one value a picture."""
    return (originals - images).abs().flatten(1).amax(1)


WORST = uv.Metric(name="worst", title="Worst pixel", unit="grey levels", digits=3, leak="low", score=worst)
"""The largest difference of a pixel."""


def plain(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One hidden layer."""
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 16), nn.Tanh(), nn.Linear(16, classes))
