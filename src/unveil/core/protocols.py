"""What an attacker knows, and the protocols that clients, obfuscations, attacks and enhancers fulfil."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.network import Draws
from unveil.core.reconstruction import Reconstruction
from unveil.core.types import Block, Family, Tensors
from unveil.core.update import Update
from unveil.core.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the attacker is assumed to know besides the public model and the update.

    Args:
        training: The client's local training, which the attacker simulates.
        image_shape: (channels, height, width).
        num_images: Pictures in the batch.
        classes: Number of classes.
        labels: The batch's labels in batch order, or None if the attacker must infer them.
        obfuscation: The obfuscation, or None if the attacker must treat the update as exact.
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


Misfit = Callable[[Candidate], Float[Tensor, ""]]
"""How badly a candidate explains what was received; lowest, in expectation, at the truth."""


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
    """What happens to an update between client and server, and what can be inferred from its output."""

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
            received: What came out of this obfuscation.
            sent_only: Judge only the entries that were sent (`Update.sent`), because an earlier stage chose them.
        """
        ...


EntryModel = Callable[[Tensor, Block], tuple[Tensor, Tensor]]
"""``(expected, block) -> (target, weight)`` for one block of one matrix of the update.

Given what an attacker expects of the entries, what the output says that they are and how much that counts,
from 0 to 1 for the surest: the quadratic that stands for the misfit near the expectation.
"""


@runtime_checkable
class HasEntryModels(Protocol):
    """An obfuscation after which some entries say more than others; all others leave every entry equally certain."""

    def entry_models(self, received: Update) -> Mapping[str, EntryModel]:
        """One entry model for each matrix of what was received, by name."""
        ...


@runtime_checkable
class MayRescale(Protocol):
    """An obfuscation that may change the length of an update by a factor that its output does not tell."""

    @property
    def scale_unknown(self) -> bool:
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
class TrainedOnPictures(Protocol):
    """An enhancer that was trained on pictures: an audit of one of them is refused, for it would know it by heart."""

    @property
    def seen(self) -> UInt8[Tensor, "pictures bytes"]:
        """Fingerprints of the pictures, as `core.fingerprints.fingerprints` makes them."""
        ...


@runtime_checkable
class HasOrder(Protocol):
    """A local training whose mini-batches have an order, which a threat model may withhold."""

    def reordered(self, pictures: int) -> LocalTraining | None:
        """The same with mini-batches that are not the client's; None where a step has all of `pictures` pictures."""
        ...


@runtime_checkable
class MayBeShortened(Protocol):
    """A local training of many steps, of which a rehearsal needs only the first."""

    def shortened(self, pictures: int) -> LocalTraining:
        """The same for one epoch of `pictures` pictures at most."""
        ...


@runtime_checkable
class TakesRoughSteps(Protocol):
    """An attack some of whose steps need only three digits, and may be taken in bfloat16; see `arithmetic.py`."""

    @property
    def is_rough(self) -> bool:
        """Whether any of them are."""
        ...


@runtime_checkable
class UsesLearnedPrior(Protocol):
    """An attack that has a learned prior in it, and so knows the pictures which that was trained on."""

    @property
    def prior(self) -> Enhancer:
        """The prior."""
        ...
