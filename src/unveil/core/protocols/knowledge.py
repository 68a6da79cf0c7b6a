"""What an attacker knows besides the public model and the update, and the sentences that say so in every result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor
from torch.nn import Module

from unveil.core.batch import Batch
from unveil.core.factored import Candidate
from unveil.core.network import Draws
from unveil.core.protocols.obfuscations import Obfuscation
from unveil.core.protocols.trainings import BufferSetting, LocalTraining, SendsBuffers

NAMED = 6
"""Most parameters that a sentence names."""


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the attacker is assumed to know besides the public model and the update.

    Args:
        training: The client's local training, which the attacker simulates.
        image_shape: (channels, height, width) of each picture.
        num_images: Number of pictures in the batch.
        classes: Number of classes.
        labels: The batch's labels in batch order, or None if the attacker must infer them.
        obfuscation: The obfuscation, or None if the attacker must treat the update as exact.
        fingerprinted: Whether the obfuscation was not granted, but is what the fingerprint of the update says.
        scale: The update is as long as `training` makes it; False if the attacker does not know learning rate and
            steps.
        draws: Seed of the random draws of the client's network, such as dropout masks; None if the attacker does not
            know them and takes their mean.
        stochastic: Whether the client's network draws random numbers; None if that was not tested.
        withheld: Names of the parameters that the client trains and does not send.
    """

    training: LocalTraining
    image_shape: tuple[int, int, int]
    num_images: int
    classes: int
    labels: Int[Tensor, " n"] | None = None
    obfuscation: Obfuscation | None = None
    fingerprinted: bool = False
    scale: bool = True
    draws: Draws = None
    stochastic: bool | None = None
    withheld: tuple[str, ...] = ()

    def simulate(self, model: Module, batch: Batch) -> Candidate:
        """Return the update that the client would send for a guess of its batch, as far as the attacker knows."""
        update = self.training.simulate(model, batch, draws=self.draws)
        return {name: value for name, value in update.items() if name not in self.withheld}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the attacker is assumed to know, a sentence each; printed with every result."""
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
            _obfuscation_of(self),
            *((_withheld(self.withheld),) if self.withheld else ()),
            *((masks,) if by_chance else ()),
            *((BUFFERS[self.buffers],) if self.buffers != "kept" else ()),
        )

    @property
    def buffers(self) -> BufferSetting:
        """Whether the update holds the network's buffers."""
        return self.training.buffers if isinstance(self.training, SendsBuffers) else "kept"


def _obfuscation_of(knowledge: Knowledge) -> str:
    """Return what the attacker is assumed to know of the obfuscation."""
    if knowledge.obfuscation is None:
        return "The attacker does not know which obfuscation was used."
    if knowledge.fingerprinted:
        found = knowledge.obfuscation
        return f"The attacker was not granted the obfuscation; the fingerprint of the update is {found}."
    return f"The attacker knows the obfuscation ({knowledge.obfuscation})."


def _withheld(names: Sequence[str]) -> str:
    """Return what the attacker is assumed to know of parameters that were not sent."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"The attacker knows that the client keeps {', '.join(names[:NAMED])}{more} back, whatever the values are, and "
        "receives nothing of that."
    )


_HELD = "The update also holds how local training changed the network's buffers, such as BatchNorm's running statistics"
BUFFERS: Mapping[str, str] = {
    "sent": f"{_HELD}; nothing obfuscates them.",
    "obfuscated": f"{_HELD}, obfuscated as an update of their own.",
}
"""Setting of `buffers` -> what the attacker is assumed to receive."""
