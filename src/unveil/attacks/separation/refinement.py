"""Refinement: from the present pictures to errors, and from errors to the features that the pictures should have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unveil.attacks.separation.alike import said, separate_alike
from unveil.attacks.separation.factorisation import FeatureEstimate, decide_patterns, read_errors, separate
from unveil.attacks.separation.heads.head import Head
from unveil.attacks.separation.tuning import FactorisationTuning
from unveil.attacks.separation.weighted_lstsq import MANY, explained, weighted_misfit
from unveil.core.protocols import EntryModel, LocalTraining
from unveil.core.types import Images

INCOMPLETE = 0.02  # unexplained share of an exact gradient's energy above which the batch was separated only in part


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRefiner:
    """Separates the batch again for each new guess of its pictures.

    Args:
        head: The head.
        gradient: The received gradient of the head's first weight.
        entry_model: The entry model of that gradient; None if all entries are equally certain.
        labels: The class index of each image.
        training: The client's local training.
        gain: Ratio of the update's length to the length that `training` gives; more than 0.
        once: Ratio of the length that `training` gives to that of one gradient; more than 0.
        estimated: Whether the gain was estimated.
        tuning: The constants of the factorisation.
        exact: Whether the attacker takes every entry of the update as exact.
        patterns: Whether each unit was open for each image in the last errors; None if these were computed, not read.
        errors: The last errors, without the gain; None before the first.
        residual: Share of the gradient's energy that the last separation did not explain, 0 to 1.
        alike: For each image the index of the image whose picture it shares; None if no two share one.
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
    alike: Int[Tensor, " n"] | None = None

    def __call__(self, pictures: Images) -> tuple[FeatureRefiner, FeatureEstimate]:
        """Separate the batch with the present pictures.

        Behind an obfuscation many images mix in each entry, so that a large batch is separated a second time, from a
        mean of the pictures' features and the separated ones.

        Args:
            pictures: The present pictures, n x c x h x w in [0, 1].

        Returns:
            The refiner for the next pictures, and the separated features.
        """
        with torch.no_grad():
            guess = self.head.features(pictures)
        refiner, separated = self._from(guess)
        if len(guess) > MANY and self.entry_model is not None:
            refiner, separated = refiner._from(self.head.allowed(between(guess, separated)))
        return replace(refiner, residual=separated.residual), separated

    def _from(self, guess: Float[Tensor, "n features"]) -> tuple[FeatureRefiner, FeatureEstimate]:
        """Choose errors with a guess of the features, and separate the features with them."""
        refiner, errors = self._with_errors(guess, self.entry_model)
        return refiner, self._separated(errors, guess)

    def _separated(self, errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"]) -> FeatureEstimate:
        """Separate the features with chosen errors, with one row for all images that share a picture."""
        if self.alike is None:
            return separate(errors, self.gradient, guess=guess, entry_model=self.entry_model)
        return separate_alike(errors, self.gradient, self.alike, guess=guess, entry_model=self.entry_model)

    def reread(self, separated: FeatureEstimate) -> tuple[FeatureRefiner, FeatureEstimate]:
        """Read ReLU patterns and separate features in turns, without pictures, until the errors explain no more.

        Args:
            separated: The first features and errors.

        Returns:
            The refiner with the errors that explain most, and the features that were separated with them.
        """
        refiner = self
        best = self.misfit(separated.errors, self.head.allowed(separated.features))
        for _ in range(self.tuning.reread_rounds):
            guess = self.head.allowed(separated.features)
            refiner, errors = refiner._with_errors(guess, None)
            misfit = self.misfit(errors, guess)
            if misfit >= best:
                break
            best, separated = misfit, separate(errors, self.gradient, ridge=self.tuning.reread_ridge)
        return replace(refiner, errors=separated.errors / self.gain), separated

    def _with_errors(
        self, guess: Float[Tensor, "n features"], entry_model: EntryModel | None
    ) -> tuple[FeatureRefiner, Float[Tensor, "n out"]]:
        """Choose among computed, read and earlier errors those that explain most of the update.

        Errors that are computed from the guess have wrong open units if the guess is wrong. Errors that are read from
        the update have the obfuscation's noise; deciding which units are open removes most of it, but after several
        local steps a unit may have been open in some steps only. The patterns and the errors of an earlier round are
        candidates too: without obfuscation the errors are exact before there are pictures.

        Args:
            guess: The features of the present guess, one row for each image.
            entry_model: The entry model with which errors are read; None if all entries are equally certain.

        Returns:
            The refiner that keeps the chosen errors, and these errors times the gain.
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
        if self.alike is not None:
            candidates = [errors[self.alike] for errors in candidates]
        best = min(candidates, key=lambda errors: self.misfit(errors, guess))
        return replace(self, patterns=None if best is candidates[0] else best != 0, errors=best / self.gain), best

    def misfit(self, errors: Float[Tensor, "n out"], guess: Float[Tensor, "n features"]) -> float:
        """Return how badly errors explain the update; lower is better.

        Without an entry model this is minus the explained energy. Values can be compared for the same guess only.

        Args:
            errors: The errors times the gain, one row for each image.
            guess: The features of the present guess, which an entry model needs.
        """
        if self.entry_model is None:
            return -explained(errors, self.gradient)
        return weighted_misfit(errors, guess, self.entry_model)

    @property
    def body(self) -> Head:
        """The body behind the head's cut; see `Refiner`."""
        return self.head

    @property
    def lost(self) -> tuple[int, ...]:
        """Numbers of the images whose errors were not found, counted from 1 in the order of the result."""
        if self.errors is None:
            return ()
        return tuple(index + 1 for index, row in enumerate(self.errors) if not bool(row.any()))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of a report: how the batch was separated, and what was estimated."""
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
        if len(self.lost) == 1:
            notes.append(
                f"The update says too little of image {self.lost[0]} of the result to tell it apart from the other "
                "images and from the obfuscation's noise: its picture is a guess."
            )
        elif self.lost:
            notes.append(
                f"The update says too little of images {', '.join(map(str, self.lost))} of the result to tell them "
                "apart from the other images and from the obfuscation's noise: their pictures are guesses."
            )
        if self.alike is not None:
            notes += said(self.alike)
        if len(self.head.weights) == 1 and len(torch.unique(self.labels)) < len(self.labels):
            notes.append(
                "Images of one class have the same errors behind a single Linear layer, so they were not told apart."
            )
        return tuple(notes)


def between(guess: Float[Tensor, "n features"], separated: FeatureEstimate) -> Float[Tensor, "n features"]:
    """Return the mean of guessed and separated features, each weighed by the inverse variance of its errors.

    What the two differ by, beyond the errors of the separated ones, is taken for the error of the guess.

    Args:
        guess: The features of the present pictures, one row for each image.
        separated: The separated features, with the covariance of their errors.
    """
    noise = separated.noise
    wrong = max(float((guess - separated.features).square().mean()) - noise, 0.0)
    share = noise / (noise + wrong) if noise + wrong > 0 else 0.0
    return share * guess + (1 - share) * separated.features
