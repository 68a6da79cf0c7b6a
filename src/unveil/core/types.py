"""The values that flow along the line of a trial: batch, update, reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unveil.core.errors import UsageError

Tensors = Mapping[str, Float[Tensor, " ..."]]
"""Tensors by parameter name; they are never matched by position."""


Images = Float[Tensor, "n c h w"]
"""RGB pictures, float32 in [0, 1]; normalisation belongs to the model."""


Family = str
"""`none`, `quantise`, `sparsify`, `perturb`, `pipeline`, or a word of one's own, which reports draw as `other`."""


@dataclass(frozen=True)
class Batch:
    """What a client trains on. Private: no attack is ever handed one that it did not make itself.

    Args:
        images: The pictures, n x c x h x w in [0, 1].
        labels: A class index for each picture, or (for an attacker's own guess) a row of class probabilities.
    """

    images: Images
    labels: Int[Tensor, " labels"] | Float[Tensor, "labels classes"]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UsageError(
                f"Batch: expected one label a picture, got {len(self.images)} pictures and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the arrays of an update are written on the wire.

    Args:
        bits_per_value: Bits for each value sent, 0 or more; None for those of each array's own type.
        sparse: Only some entries are sent, each with its position.
        side_bits: Bits sent once beside the values, for norms, scales and minima; the total over all arrays.
    """

    bits_per_value: float | None = None
    sparse: bool = False
    side_bits: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One named array on the wire.

    Args:
        name: The parameter's name, or that of a factor which the parameter is worked out from.
        entries: Entries of the array.
        values: Entries that are sent, 0 to `entries`.
        bits_per_value: Bits for each of them.
        index_bits: Bits for their positions: the cheaper of an index each and a bitmap, 0 where all entries are sent.
    """

    name: str
    entries: int
    values: int
    bits_per_value: float
    index_bits: int = 0

    @property
    def bits(self) -> float:
        """Size in bits, at most that of all entries written in full, for which an entry not sent is a third symbol."""
        if self.values == self.entries:
            return self.entries * self.bits_per_value
        full = self.entries * max(self.bits_per_value, math.log2(3))
        return min(self.values * self.bits_per_value + self.index_bits, full)


@dataclass(frozen=True)
class Update:
    """What travels from a client to the server, decoded to plain tensors.

    Args:
        tensors: One tensor a parameter.
        coding: How they were written on the wire.
        support: Tensor name -> which entries were sent, a mask of the tensor's shape; a tensor that is not named was
            sent whole. None: all entries, or with `coding.sparse` those that are not zero. Entries that were not sent
            are exactly zero; one that was sent may be zero too.
        side: What travels beside the values, by the stage that sent it (its SPEC): tensor name -> the distance of the
            quantiser's levels, a 0-dimensional tensor or one of the tensor's shape, in units of `tensors`.
        encoded: What travelled instead of the tensors, where the receiver works them out from other arrays, such as
            two thin factors. None: the tensors themselves travelled.
    """

    tensors: Tensors
    coding: Coding = field(default_factory=Coding)
    support: Mapping[str, Bool[Tensor, "*shape"]] | None = None
    side: Mapping[str, Tensors] = field(default_factory=dict)
    encoded: Update | None = None

    def sent(self, name: str) -> Bool[Tensor, "*shape"] | None:
        """Which entries of a tensor were sent; None stands for all of them."""
        if self.support is not None:
            return self.support.get(name)
        return self.tensors[name] != 0 if self.coding.sparse else None

    def masks(self) -> dict[str, Bool[Tensor, "*shape"]]:
        """Which entries were sent, for every tensor that was not sent whole."""
        found = {name: self.sent(name) for name in self.tensors}
        return {name: mask for name, mask in found.items() if mask is not None}

    def count_sent(self, name: str) -> int:
        """How many entries of a tensor were sent."""
        mask = self.sent(name)
        return self.tensors[name].numel() if mask is None else int(torch.count_nonzero(mask))

    @property
    def payload(self) -> tuple[Payload, ...]:
        """What is on the wire, an array each; without the side information, which `wire_bits` adds."""
        if self.encoded is not None:
            return self.encoded.payload
        found = []
        for name, tensor in self.tensors.items():
            size, bits = tensor.numel(), self.coding.bits_per_value
            sent = self.count_sent(name) if self.coding.sparse else size
            found.append(
                Payload(
                    name=name,
                    entries=size,
                    values=sent,
                    bits_per_value=8 * tensor.element_size() if bits is None else bits,
                    index_bits=min(sent * math.ceil(math.log2(max(size, 2))), size) if sent < size else 0,
                )
            )
        return tuple(found)

    @property
    def wire_bits(self) -> int:
        """Size on the wire in bits: values, positions and side information."""
        if self.encoded is not None:
            return self.encoded.wire_bits
        return math.ceil(sum((array.bits for array in self.payload), self.coding.side_bits))

    @property
    def is_zero(self) -> bool:
        """Whether every value sent is zero, or nothing was sent at all."""
        return not any(bool(tensor.any()) for tensor in self.tensors.values())

    def check(self) -> None:
        """Raise a `UsageError` that names the first tensor with a NaN or an infinity in it."""
        for name, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise UsageError(
                    f"update: tensor {name!r} holds NaN or infinite values, so nothing can be matched to it; "
                    "check the client's learning rate and input for overflow, or send a finite update"
                )


class Stop(Enum):
    """Why an attack ended; the value is what results hold, `sentence` what the user reads."""

    FINISHED = "finished"
    STALLED = "stalled"
    EMPTY = "empty"
    DIVERGED = "diverged"

    @property
    def sentence(self) -> str:
        """The same for a reader."""
        return {
            Stop.FINISHED: "finished: every planned step was taken",
            Stop.STALLED: "stalled: the loss no longer changed, so the remaining steps were not taken",
            Stop.EMPTY: "nothing to match: the received update is all zeros, so the pictures are the blind guess, "
            "mid-grey",
            Stop.DIVERGED: "diverged: the loss became NaN or infinite; the best images before that were kept",
        }[self]


@dataclass(frozen=True, kw_only=True)
class FeatureFit:
    """How firmly the update holds each picture, told from the update alone; sizes in units of the features' spread.

    Args:
        noise: Standard deviation of the errors of the features that the update gives: the obfuscation's strength as it
            arrives at this picture. 0 is exact, at 1 the update says next to nothing.
        miss: Root mean squared distance of the rebuilt picture's features from those.
        chi_squared: (images) -> for each, the mean squared distance of its features from those that the update gives,
            in units of the variance of their errors: about 1 for the truth, more for what the update speaks against.
            Differentiable. None where it cannot be asked.
    """

    noise: Float[Tensor, " n"]
    miss: Float[Tensor, " n"]
    chi_squared: Callable[[Images], Float[Tensor, " n"]] | None = None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What an attack rebuilt, in its own order.

    Args:
        images: The rebuilt pictures, in [0, 1].
        labels: The label the attack believed each picture to have.
        losses: The attack's own loss after each step.
        stop: Why the attack ended.
        notes: What else a reader must know of this run, a sentence each.
        confidence: How sure the attack is of each picture, to rank them; None where it does not say.
        evidence: How firmly the update holds each picture; None where the batch was not separated.
    """

    images: Images
    labels: Int[Tensor, " n"]
    losses: Sequence[float]
    stop: Stop = Stop.FINISHED
    notes: tuple[str, ...] = ()
    confidence: Float[Tensor, " n"] | None = None
    evidence: FeatureFit | None = None


Scoring = Callable[[Images, Images], Float[Tensor, " n"]]
"""(originals, their reconstructions in the same order) -> one value a picture; NaN where a picture has none."""


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """What a reader must know of a metric.

    Args:
        name: Its key in results.
        title: Its name in tables, without the unit; empty for the key.
        unit: Its unit, empty for a pure number.
        digits: Digits after the point in tables, at least 0.
        leak: Whether a high or a low value means leakage.
        description: What it says, half a sentence for captions.
        is_rate: Every picture has 0 or 1, whose mean is a share and has a Wilson interval.
    """

    name: str
    title: str = ""
    unit: str = ""
    digits: int = 2
    leak: Literal["high", "low"]
    description: str = ""
    is_rate: bool = False

    @property
    def heading(self) -> str:
        """Title and unit, as at the head of a column."""
        title = self.title or self.name
        return f"{title}, {self.unit}" if self.unit else title

    @property
    def arrow(self) -> str:
        """Where leakage lies."""
        return "↑" if self.leak == "high" else "↓"

    def scored(self, score: Scoring) -> Metric:
        """The metric of these facts."""
        return Metric(**vars(self), score=score)


@dataclass(frozen=True, kw_only=True)
class Metric(MetricFacts):
    """A score of how much of an image came back.

    Args:
        score: Scores reconstructions; the other arguments are those of `MetricFacts`.
    """

    score: Scoring

    @property
    def facts(self) -> MetricFacts:
        """All but the function, as results keep it."""
        return MetricFacts(**{item.name: getattr(self, item.name) for item in fields(MetricFacts)})


@dataclass(frozen=True)
class Progress:
    """A look at a running attack. `images` is a function so that nobody pays for a decoding that nobody wants."""

    step: int
    steps: int
    loss: float
    images: Callable[[], Any]


Watch = Callable[[Progress], None]


Block = tuple[slice, slice]
"""Some rows and columns of a matrix."""
