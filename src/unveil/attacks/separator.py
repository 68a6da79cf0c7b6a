"""From pictures to errors to features: what a search knows of the update so far, better with every round."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unveil.attacks.head import Head
from unveil.attacks.separation import Separated, read_errors, round_gates, separate, unexplained
from unveil.core import Belief, Images, LocalTraining
from unveil.thin import Thin


@dataclass(kw_only=True)
class Separator:
    """Separates the batch anew from each better guess of its pictures.

    Args:
        head: The head.
        gradient: What was received for its first weight.
        belief: What the channel says of that weight's entries, None where all are equally certain.
        labels: One class an image.
        training: The client's local training.
        gain: How much larger the update is than what `training` gives, or None to estimate it with each guess.
        gated: Whether the head's first activation only lets pass or blocks.
        chosen: Which errors were used in each round.
    """

    head: Head
    gradient: Tensor
    belief: Belief | None
    labels: Tensor
    training: LocalTraining
    gain: float | None
    gated: bool
    chosen: list[str] = field(default_factory=list)
    estimate: float = 1.0

    def __call__(self, pictures: Images) -> tuple[Tensor, Separated]:
        """The features of the pictures, and those that the update says they should have."""
        with torch.no_grad():
            guess = self.head.features(pictures)
        return guess, separate(self._errors(guess), self.gradient, guess=guess, belief=self.belief)

    def _errors(self, guess: Tensor) -> Tensor:
        """Of the errors computed from the guess and those read from the update, the ones that explain it better.

        In computed ones the gates are as wrong as the guess. Read ones have the noise of the channel, most of which goes
        where they are rounded; but after several local steps a gate is open for some of them only.
        """
        simulated = self.head.simulate(self.training, guess, self.labels)[self.head.weights[0]]
        computed = read_errors(guess, simulated)
        self.estimate = self.gain if self.gain is not None else self._scale(computed, guess)
        computed = computed * self.estimate
        candidates = {"computed": computed}
        if self.gated:
            layers = self.head.layers(guess, self.labels)
            once = layers[0].errors
            share = (computed * once).sum() / once.square().sum().clamp_min(torch.finfo(once.dtype).tiny)
            read = read_errors(guess, self.gradient, belief=self.belief, expected=computed)
            candidates["read"] = round_gates(read, share * layers[1].pulls)
        left = {name: unexplained(errors, self.gradient) for name, errors in candidates.items()}
        self.chosen.append(min(left, key=lambda name: left[name]))
        return candidates[self.chosen[-1]]

    def _scale(self, errors: Tensor, guess: Tensor) -> float:
        """Least squares for the gain on what was sent, on every eighth feature."""
        part = slice(None, None, max(1, guess.shape[1] // 8192))
        expected, received = errors.T @ guess[:, part], self.gradient[:, part]
        sent = received != 0
        energy = (expected.square() * sent).sum()
        scale = float((expected * received).sum() / energy.clamp_min(torch.finfo(energy.dtype).tiny))
        return scale if scale > 0 else self.estimate
