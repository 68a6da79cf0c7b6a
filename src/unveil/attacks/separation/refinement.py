"""From pictures to errors to features: what a search knows of the update so far, better with every round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unveil.attacks.separation.factorisation import FeatureEstimate, decide_patterns, read_errors, separate
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.weighted_lstsq import explained, weighted_misfit
from unveil.core.protocols import EntryModel, LocalTraining
from unveil.core.types import Images

INCOMPLETE = 0.02  # share of an exact gradient above which a separation counts as one in part


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRefiner:
    """Separates the batch anew from each better guess of its pictures.

    Args:
        head: The head.
        gradient: What was received for its first weight.
        entry_model: What the obfuscation says of that weight's entries, None where all are equally certain.
        labels: One class an image.
        training: The client's local training.
        gain: How much longer the update is than what `training` gives.
        once: How much longer what `training` gives is than one gradient.
        estimated: Whether the gain was estimated.
        tuning: Of the factorisation.
        exact: Whether the attacker takes every entry of the update for exact.
        patterns: Which units the last errors had open, images x out; None where that was not read from the update.
        errors: The last errors, without the gain; None before the first.
        residual: Share of the gradient's energy that the last separation did not explain.
    """

    head: Head
    gradient: Float[Tensor, "out features"]
    entry_model: EntryModel | None
    labels: Int[Tensor, " n"]
    training: LocalTraining
    gain: float
    once: float
    estimated: bool
    tuning: FactorisationTuning
    exact: bool = False
    patterns: Bool[Tensor, "n out"] | None = None
    errors: Float[Tensor, "n out"] | None = None
    residual: float = 0.0

    def __call__(self, pictures: Images) -> tuple[FeatureRefiner, FeatureEstimate]:
        """The refiner that goes on from these pictures, and the features that the update says they should have."""
        with torch.no_grad():
            guess = self.head.features(pictures)
        refiner, errors = self._with_errors(guess, self.entry_model)
        separated = separate(errors, self.gradient, guess=guess, entry_model=self.entry_model)
        return replace(refiner, residual=separated.residual), separated

    def reread(self, separated: FeatureEstimate) -> tuple[FeatureRefiner, FeatureEstimate]:
        """ReLU patterns and features in turns without any picture, as long as the errors explain more of the update."""
        refiner = self
        best = self._misfit(separated.errors, self.head.allowed(separated.features))
        for _ in range(self.tuning.reread_rounds):
            guess = self.head.allowed(separated.features)
            refiner, errors = refiner._with_errors(guess, None)
            misfit = self._misfit(errors, guess)
            if misfit >= best:
                break
            best, separated = misfit, separate(errors, self.gradient, ridge=self.tuning.reread_ridge)
        return replace(refiner, errors=separated.errors / self.gain), separated

    def _with_errors(
        self, guess: Float[Tensor, "n features"], entry_model: EntryModel | None
    ) -> tuple[FeatureRefiner, Float[Tensor, "n out"]]:
        """Of the errors computed from the guess and those read from the update, the ones that explain most of it.

        In computed ones the open units are as wrong as the guess. Read ones have the noise of the obfuscation, most of
        which goes where it is decided which units are open; but after several local steps a unit is open for some of
        them only. Patterns read in an earlier round stay where no better ones are found, and so do the errors as a
        whole: those of an update that was not obfuscated are exact before there are pictures.

        Returns:
            The refiner that remembers them, and the errors with the gain in them.
        """
        simulated = self.head.simulate(self.training, guess, self.labels)[self.head.weights[0]]
        computed = self.gain * read_errors(guess, simulated)
        candidates = [computed]
        if self.head.is_gated:
            layers = self.head.layers(guess, self.labels)
            once = layers[0].errors
            share = (computed * once).sum() / once.square().sum().clamp_min(torch.finfo(once.dtype).tiny)
            opened = share * layers[1].pulls * self.head.open_slope(1)
            read = read_errors(guess, self.gradient, entry_model=entry_model, expected=computed)
            drive = layers[0].outputs.abs() * torch.where(once == 0, -1.0, 1.0)
            candidates.append(decide_patterns(read, opened, drive, drive_log_odds=self.tuning.drive_log_odds))
            if self.patterns is not None:
                candidates.append(opened * self.patterns)
        if self.errors is not None:
            candidates.append(self.gain * self.errors)
        best = min(candidates, key=lambda errors: self._misfit(errors, guess))
        return replace(self, patterns=None if best is computed else best != 0, errors=best / self.gain), best

    def _misfit(self, errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"]) -> float:
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
                "(unknown learning rate times local steps, or what the obfuscation did to its length)."
            )
        if len(self.head.weights) == 1 and len(torch.unique(self.labels)) < len(self.labels):
            notes.append(
                "Images of one class have the same errors behind a single Linear layer, so they were not told apart."
            )
        return tuple(notes)
