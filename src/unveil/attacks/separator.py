"""From pictures to errors to features: what a search knows of the update so far, better with every round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.attacks.head import Head
from unveil.attacks.separation import Separated, explained, read_errors, round_gates, separate
from unveil.core import Belief, Images, LocalTraining


@dataclass(kw_only=True)
class Separator:
    """Separates the batch anew from each better guess of its pictures.

    Args:
        head: The head.
        gradient: What was received for its first weight.
        belief: What the channel says of that weight's entries, None where all are equally certain.
        labels: One class an image.
        training: The client's local training.
        gain: How much larger the update is than what `training` gives. Where it was estimated it stays as it is: a
            darker guess would ask for a larger gain, which would ask for a darker guess.
        estimated: Whether it was estimated.
        gated: Whether the head's first activation only lets pass or blocks.
    """

    head: Head
    gradient: Tensor
    belief: Belief | None
    labels: Tensor
    training: LocalTraining
    gain: float
    estimated: bool
    gated: bool

    def __call__(self, pictures: Images) -> Separated:
        """The features that the update says the pictures should have."""
        with torch.no_grad():
            guess = self.head.features(pictures)
        return separate(self._errors(guess), self.gradient, guess=guess, belief=self.belief)

    def _errors(self, guess: Tensor) -> Tensor:
        """Of the errors computed from the guess and those read from the update, the ones that explain it better.

        In computed ones the gates are as wrong as the guess. Read ones have the noise of the channel, most of which
        goes where they are rounded; but after several local steps a gate is open for some of them only.
        """
        simulated = self.head.simulate(self.training, guess, self.labels)[self.head.weights[0]]
        computed = self.gain * read_errors(guess, simulated)
        candidates = [computed]
        if self.gated:
            layers = self.head.layers(guess, self.labels)
            once = layers[0].errors
            share = (computed * once).sum() / once.square().sum().clamp_min(torch.finfo(once.dtype).tiny)
            read = read_errors(guess, self.gradient, belief=self.belief, expected=computed)
            candidates.append(round_gates(read, share * layers[1].pulls))
        return max(candidates, key=lambda errors: explained(errors, self.gradient))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the separation."""
        notes = ["The batch was separated into single images through its Linear layers."]
        if self.estimated:
            notes.append(
                f"The update was estimated to be {self.gain:.3g} times as long as the assumed local training makes it "
                "(unknown learning rate times local steps, or what the channel did to its length)."
            )
        if len(self.head.weights) == 1 and len(torch.unique(self.labels)) < len(self.labels):
            notes.append(
                "Images of one class have the same errors behind a single Linear layer, so they were not told apart."
            )
        return tuple(notes)
