"""The types every part of unveil speaks in, and the protocols its parts fulfil.

Batch -LocalTraining-> Update -Obfuscation-> Update -Attack(model, ., Knowledge)-> Reconstruction
      -align-> Metrics -> Trial -> report
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import Module

from unveil.errors import UsageError
from unveil.network import Draws
from unveil.thin import Candidate

Tensors = Mapping[str, Tensor]
"""Tensors keyed by parameter name, never matched by position."""

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
    """How an update is written on the wire; with the number of entries sent, all that its size depends on.

    Args:
        bits_per_value: Bits for each value sent; 0 where `side_bits` says all, None for those of each tensor's type.
        sparse: Only some entries are sent, each with its position.
        side_bits: Everything sent once beside the values: norms, scales, minima. Total, in bits.
        numbers: Tensor name -> numbers sent for it, where these are not its entries, such as the entries of two thin
            factors. A tensor that is not named sends its entries.
    """

    bits_per_value: float | None = None
    sparse: bool = False
    side_bits: float = 0.0
    numbers: Mapping[str, int] | None = None


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
    """

    tensors: Tensors
    coding: Coding = field(default_factory=Coding)
    support: Mapping[str, Bool[Tensor, "*shape"]] | None = None
    side: Mapping[str, Tensors] = field(default_factory=dict)

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
    def wire_bits(self) -> int:
        """Size on the wire in bits: values, positions and side information.

        A sparse tensor's positions cost what the cheaper of an index each and a bitmap costs, and nothing where all
        entries are sent. It never costs more than all its entries written in full, which takes three symbols.
        """
        coding, total = self.coding, self.coding.side_bits
        for name, tensor in self.tensors.items():
            size, bits = tensor.numel(), coding.bits_per_value
            if bits is None:
                bits = 8 * tensor.element_size()
            if coding.numbers is not None and name in coding.numbers:
                total += coding.numbers[name] * bits
            elif coding.sparse and (sent := self.count_sent(name)) < size:
                positions = min(sent * math.ceil(math.log2(max(size, 2))), size)
                total += min(sent * bits + positions, size * max(bits, math.log2(3))) if bits else 0
            else:
                total += size * bits
        return math.ceil(total)

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


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the attacker is assumed to know besides the public model and the update.

    Args:
        training: The client's local training, which the attacker simulates.
        image_shape: (channels, height, width).
        num_images: Pictures in the batch.
        classes: Number of classes.
        labels: The batch's labels in batch order, or None if the attacker must infer them.
        obfuscation: The channel, or None if the attacker must treat the update as exact.
        scale: The update is as long as `training` makes it; False where learning rate and steps are not known.
        draws: Seed of what the client's network drew by chance, such as dropout masks; None where the attacker does not
            know them and takes their mean.
        stochastic: Whether the client's network draws anything by chance; None where nobody looked.
    """

    training: LocalTraining
    image_shape: tuple[int, int, int]
    num_images: int
    classes: int
    labels: Int[Tensor, " n"] | None = None
    obfuscation: Obfuscation | None = None
    scale: bool = True
    draws: Draws = None
    stochastic: bool | None = None

    def simulate(self, model: Module, batch: Batch) -> Candidate:
        """What the client would have sent for a guess of its batch, as far as the attacker knows its training."""
        return self.training.simulate(model, batch, draws=self.draws)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was granted to the attacker, a sentence each; printed with every result."""
        c, h, w = self.image_shape
        by_chance = self.training.mode == "train" if self.stochastic is None else self.stochastic
        masks = (
            "The attacker does not know what the client's network drew by chance, such as dropout masks, and takes the "
            "mean of every draw."
            if self.draws is None
            else "The attacker knows what the client's network drew by chance, such as dropout masks."
        )
        return (
            f"The attacker knows the client's local training ({self.training}) and the weights before it."
            if self.scale
            else f"The attacker knows the weights before local training, takes it for {self.training}, and does not "
            "know its learning rate and number of steps.",
            f"The attacker knows that the batch holds {self.num_images} images of {c} x {h} x {w}.",
            "The attacker knows the labels of the batch."
            if self.labels is not None
            else "The attacker does not know the labels of the batch.",
            f"The attacker knows the obfuscation ({self.obfuscation})."
            if self.obfuscation is not None
            else "The attacker does not know which obfuscation was used.",
            *((masks,) if by_chance else ()),
        )


class Stop(Enum):
    """Why an attack ended; the value is the sentence that the user reads."""

    FINISHED = "finished: every planned step was taken"
    STALLED = "stalled: the loss no longer changed, so the remaining steps were not taken"
    EMPTY = "nothing to match: the received update is all zeros, so the pictures are the blind guess, mid-grey"
    DIVERGED = "diverged: the loss became NaN or infinite; the best images before that were kept"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How firmly the update holds each picture, told from the update alone; sizes in units of the features' spread.

    Args:
        noise: Standard deviation of the errors of the features that the update gives: the channel's strength as it
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
    evidence: Evidence | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure of how much of an image came back.

    Args:
        name: Its key in results.
        unit: Its unit, empty for a pure number.
        leak: Whether a high or a low value means leakage.
        score: (originals, reconstructions) -> one value per image.
    """

    name: str
    unit: str
    leak: Literal["high", "low"]
    score: Callable[[Images, Images], Float[Tensor, " n"]]


@dataclass(frozen=True, kw_only=True)
class Enhanced:
    """What an enhancer did to the pictures of one trial; plain JSON throughout.

    Args:
        misfit_before: How badly the attack's pictures explain the update, in the attacker's own terms.
        misfit_after: The same for the pictures that were kept.
        share: How much of the enhancer's change was kept, 0 to 1: a restorer may not raise the misfit.
        alone: Paths of what it draws from the labels alone, without any update; empty where it does not use labels.
        before: The trial as it is without the enhancer: what the attack itself achieved, pictures and controls too.
    """

    misfit_before: float
    misfit_after: float
    share: float
    alone: list[str] = field(default_factory=list)
    before: Trial | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One client, one channel, one attack, one seed, and what came of it; plain JSON throughout.

    Args:
        settings: SPEC strings and names: scene, model, images, batch, training, obfuscation, attack, knowledge; and
            arithmetic, what the attack's roughest steps were computed in.
        seed: The seed of the channel's and the attack's randomness.
        wire_bits: Size of what was sent, in bits.
        raw_bits: Size of the same update with every entry written in full, in bits.
        seconds: Wall time of the attack.
        iterations: Optimisation steps taken.
        peak_mib: Peak memory of the process during the attack, MiB; None where it cannot be measured.
        stop: Why the attack ended, a sentence.
        scores: Metric name -> one value per image, in batch order.
        floor: Metric name -> the same, for a blind guess (a mid-grey picture) that never saw the update.
        losses: The attack's loss curve, thinned to at most 200 points.
        originals: Paths of the original pictures, relative to the results' folder.
        images: Paths of the reconstructions, aligned to the originals.
        labels: The labels the attack used, aligned to the originals.
        assumptions: What was granted to the attacker, a sentence each.
        notes: What else a reader must know, a sentence each.
        versions: Package -> version; what the processor is and has.
        confidence: How sure the attack was of each picture, aligned to the originals; empty where it did not say.
        controls: Control -> metric -> one value an image: what the same attack scored, against the same originals,
            on an update that knows nothing of them.
        enhanced: What the enhancer did; None without one.
    """

    settings: Mapping[str, str]
    seed: int
    wire_bits: int
    raw_bits: int
    seconds: float
    iterations: int
    peak_mib: float | None
    stop: str
    scores: Mapping[str, list[float]]
    floor: Mapping[str, list[float]]
    losses: list[float]
    originals: list[str]
    images: list[str]
    labels: list[int]
    assumptions: list[str]
    notes: list[str]
    versions: Mapping[str, str]
    confidence: list[float] = field(default_factory=list)
    controls: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    enhanced: Enhanced | None = None


Misfit = Callable[[Candidate], Float[Tensor, ""]]
"""How badly a candidate explains what was received; lowest, in expectation, at the truth."""


@dataclass(frozen=True)
class Progress:
    """A look at a running attack. `images` is a function so that nobody pays for a decoding that nobody wants."""

    step: int
    steps: int
    loss: float
    images: Callable[[], Any]


Watch = Callable[[Progress], None]


@runtime_checkable
class LocalTraining(Protocol):
    """What a client does with its batch before it sends anything. Never changes the model."""

    @property
    def mode(self) -> Literal["eval", "train"]:
        """The mode in which the client runs the model."""
        ...

    def __call__(self, model: Module, batch: Batch, *, generator: Generator | None = None) -> Tensors:
        """The client's side: what is sent, with the client's own noise drawn from the generator."""
        ...

    def simulate(self, model: Module, batch: Batch, *, draws: Draws = 0) -> Candidate:
        """The attacker's side: the same, noise-free and differentiable with respect to the batch.

        Args:
            model: The public model.
            batch: The attacker's guess.
            draws: Seed of what the network draws by chance (dropout masks), None for the mean of every draw.
        """
        ...


@runtime_checkable
class Obfuscation(Protocol):
    """A channel: what happens to an update between client and server, and what can be inferred from its output."""

    @property
    def family(self) -> Family:
        """Which of the paper's families it belongs to."""
        ...

    def __call__(self, update: Update, *, generator: Generator) -> Update:
        """Obfuscate; keeps names, shapes and types, and leaves its input alone."""
        ...

    def misfit(self, received: Update, *, sent_only: bool = False) -> Misfit:
        """The observation model: prepare once for what was received, then judge candidates.

        Args:
            received: What came out of this channel.
            sent_only: Judge only the entries that were sent (`Update.sent`), because an earlier stage chose them.
        """
        ...


Block = tuple[slice, slice]
"""Some rows and columns of a matrix."""

Belief = Callable[[Tensor, Block], tuple[Tensor, Tensor]]
"""``(expected, block) -> (target, weight)`` for one block of one matrix of the update.

Given what an attacker expects of the entries, what the channel's output says that they are and how much that counts,
from 0 to 1 for the surest: the quadratic that stands for the misfit near the expectation.
"""


@runtime_checkable
class Telling(Protocol):
    """An obfuscation after which some entries say more than others; all others leave every entry equally certain."""

    def beliefs(self, received: Update) -> Mapping[str, Belief]:
        """One belief for each matrix of what was received, by name."""
        ...


@runtime_checkable
class Shrinking(Protocol):
    """An obfuscation that may change the length of an update by a factor that its output does not tell."""

    @property
    def loses_scale(self) -> bool:
        """Whether it may, with these settings."""
        ...


@runtime_checkable
class Attack(Protocol):
    """Rebuilds a batch from the public model, the update and the knowledge; it never sees the private batch."""

    def __call__(
        self,
        model: Module,
        update: Update,
        knowledge: Knowledge,
        *,
        generator: Generator,
        watch: Watch | None = None,
    ) -> Reconstruction:
        """Run the attack; `watch` is called after each step and its time is nobody's concern but the caller's."""
        ...


@runtime_checkable
class Enhancer(Protocol):
    """Turns an attack's pictures into better ones by what is known of pictures in general; never sees the update."""

    @property
    def is_faithful(self) -> bool:
        """Whether it claims to restore, and so may not take pictures further from what the update says."""
        ...

    @property
    def uses_labels(self) -> bool:
        """Whether it draws by the labels, so that what it draws from them alone must stand beside it."""
        ...

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What an attacker who has it is granted, a sentence each; printed with every result."""
        ...

    def __call__(self, guess: Reconstruction, *, class_names: Sequence[str] = ()) -> Reconstruction:
        """The same reconstruction with other pictures.

        Args:
            guess: What an attack rebuilt.
            class_names: Names of the classes that the labels count, where they are known.
        """
        ...


@runtime_checkable
class TakesRoughSteps(Protocol):
    """An attack some of whose steps need only three digits, and may be taken in bfloat16; see `arithmetic.py`."""

    @property
    def is_rough(self) -> bool:
        """Whether any of them are."""
        ...


@runtime_checkable
class Informed(Protocol):
    """An attack that has a learned prior in it, and so knows the pictures which that was trained on."""

    @property
    def prior(self) -> Enhancer:
        """The prior."""
        ...
