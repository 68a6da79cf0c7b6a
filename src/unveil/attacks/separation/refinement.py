"""From pictures to errors to features: what a search knows of the update so far, better with every round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unveil.attacks.separation.factorisation import FeatureEstimate, decide_gates, read_errors, separate
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.weighted_lstsq import explained, weighted_misfit
from unveil.core.protocols import EntryModel, LocalTraining
from unveil.core.types import Images

INCOMPLETE = 0.02  # share of an exact gradient above which a separation counts as one in part
ROUGH = 1e-3  # ridge, in units of the mean eigenvalue, while the errors are still rough


@dataclass(kw_only=True)
class FeatureRefiner:
    """Separates the batch anew from each better guess of its pictures.

    Args:
        head: The head.
        gradient: What was received for its first weight.
        belief: What the channel says of that weight's entries, None where all are equally certain.
        labels: One class an image.
        training: The client's local training.
        gain: How much longer the update is than what `training` gives; where it is not known, see `gain.py`.
        once: How much longer what `training` gives is than one gradient.
        estimated: Whether it was estimated.
        gated: Whether the head's first activation only lets pass or blocks.
        gates: Which gates the last errors had open; None where they were not read.
        errors: The last errors, without the gain; None before the first.
        residual: Share of the gradient's energy that the last separation did not explain.
        exact: Whether the attacker takes every entry of the update for exact.
    """

    head: Head
    gradient: Tensor
    entry_model: EntryModel | None
    labels: Tensor
    training: LocalTraining
    gain: float
    once: float
    estimated: bool
    gated: bool
    gates: Tensor | None = None
    errors: Tensor | None = None
    residual: float = 0.0
    exact: bool = False

    def __call__(self, pictures: Images) -> FeatureEstimate:
        """The features that the update says the pictures should have."""
        with torch.no_grad():
            guess = self.head.features(pictures)
        separated = separate(
            self._errors(guess, self.entry_model), self.gradient, guess=guess, entry_model=self.entry_model
        )
        self.residual = separated.residual
        return separated

    def reread(self, separated: FeatureEstimate, *, rounds: int) -> FeatureEstimate:
        """Gates and features in turns without any picture, as long as the errors explain more of the update."""
        guess = self.head.allowed(separated.features)
        best = self._misfit(separated.errors, guess)
        for _ in range(rounds):
            guess = self.head.allowed(separated.features)
            errors = self._errors(guess, None)
            if (now := self._misfit(errors, guess)) >= best:
                break
            best = now
            separated = separate(errors, self.gradient, ridge=ROUGH)
        self.errors = separated.errors / self.gain
        return separated

    def _errors(self, guess: Tensor, entry_model: EntryModel | None) -> Tensor:
        """Of the errors computed from the guess and those read from the update, the ones that explain most of it.

        In computed ones the gates are as wrong as the guess. Read ones have the noise of the channel, most of which
        goes where it is decided which gates are open; but after several local steps a gate is open for some of them
        only. Gates read in an earlier round stay where no better ones are found, and so do the errors as a whole: those
        of an update that was not obfuscated are exact before there are pictures.
        """
        simulated = self.head.simulate(self.training, guess, self.labels)[self.head.weights[0]]
        computed = self.gain * read_errors(guess, simulated)
        candidates = [computed]
        if self.gated:
            layers = self.head.layers(guess, self.labels)
            once = layers[0].errors
            share = (computed * once).sum() / once.square().sum().clamp_min(torch.finfo(once.dtype).tiny)
            opened = share * layers[1].pulls * self.head.open_slope(1)
            read = read_errors(guess, self.gradient, entry_model=entry_model, expected=computed)
            drive = layers[0].outputs.abs() * torch.where(once == 0, -1.0, 1.0)
            candidates.append(decide_gates(read, opened, drive))
            if self.gates is not None:
                candidates.append(opened * self.gates)
        if self.errors is not None:
            candidates.append(self.gain * self.errors)
        best = min(candidates, key=lambda errors: self._misfit(errors, guess))
        self.gates = None if best is computed else best != 0
        self.errors = best / self.gain
        return best

    def _misfit(self, errors: Tensor, guess: Tensor) -> float:
        """What of the update the errors cannot explain; comparable for one guess, lower is better."""
        if self.entry_model is None:
            return -explained(errors, self.gradient)
        return weighted_misfit(errors, guess, self.entry_model)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the separation."""
        notes = ["The batch was separated into single images through its Linear layers."]
        if self.exact and self.residual > INCOMPLETE:
            notes = [
                "The batch was separated into single images through its Linear layers only in part: what was found "
                f"leaves {self.residual:.0%} of their gradient unexplained, although nothing was obfuscated."
            ]
        if self.head.is_guessed:
            notes.append(
                "What the network dropped by chance was read from the update where it lies between the Linear layers; "
                "before them it was taken to pass."
            )
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
