"""The constants of unveil's own attack, as values that Python can set and a benchmark can sweep.

How they were chosen: by hand, on the published batch (16 pictures of 128 px, LeNet) while the attack was written,
unless a field says otherwise. Alternatives were compared, but no record of them was kept. No field was fitted on other
pictures. `python -m benchmarks run tuning` halves and doubles each of them on pictures that were not used, and
docs/method.md has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from unveil.core.bounds import not_negative, positive, share, whole
from unveil.core.errors import UsageError
from unveil.core.tuning import changes_of

HINT = "leave it out for the default"


@dataclass(frozen=True, kw_only=True)
class FactorisationTuning:
    """How the gradient of a Linear layer is factorised into errors and features. All fields are without a unit.

    Args:
        first_ridge: Ridge of the solves before there are pictures, relative to the mean eigenvalue of the equations.
            The errors are rough then, and those of images of one class nearly parallel.
        reread_ridge: The same while ReLU patterns are read from the update without pictures.
        first_rounds: Alternations of errors and features before the first pictures; at least 0.
        reread_rounds: Times that ReLU patterns are then read from the update, as long as it gets better; at least 0.
        drive_log_odds: Log-odds that a unit is open whose pre-activation is one standard deviation above zero, before
            the update is read. The greater, the more the guess counts beside the update.
        weak_equation: An equation counts as saying nothing where its eigenvalue is below this share of the mean
            eigenvalue; in (0, 1].
        pattern_tries: Random ReLU patterns from which the search for images of one class begins.
        pattern_rounds: Most times that these are projected and rounded.
        fewest_open: Patterns with a smaller share of open units are dropped, for they fit anything; in (0, 1].
        same_pattern: Two patterns that agree on at least this share of units count as one; in (0, 1].

    Raises:
        UsageError: A value outside its range.
    """

    first_ridge: float = 1e-3
    reread_ridge: float = 1e-3
    first_rounds: int = 4
    reread_rounds: int = 2
    drive_log_odds: float = 3.0
    weak_equation: float = 0.05
    pattern_tries: int = 1000
    pattern_rounds: int = 60
    fewest_open: float = 0.1
    same_pattern: float = 0.97

    def __post_init__(self) -> None:
        who = "FactorisationTuning"
        positive(who, "first_ridge", self.first_ridge, HINT)
        positive(who, "reread_ridge", self.reread_ridge, HINT)
        whole(who, "first_rounds", self.first_rounds, 0, 1000, HINT)
        whole(who, "reread_rounds", self.reread_rounds, 0, 1000, HINT)
        not_negative(who, "drive_log_odds", self.drive_log_odds, HINT)
        share(who, "weak_equation", self.weak_equation, HINT)
        whole(who, "pattern_tries", self.pattern_tries, 1, 1_000_000, HINT)
        whole(who, "pattern_rounds", self.pattern_rounds, 1, 1_000_000, HINT)
        share(who, "fewest_open", self.fewest_open, HINT)
        share(who, "same_pattern", self.same_pattern, HINT)

    __str__ = changes_of


@dataclass(frozen=True, kw_only=True)
class SearchTuning:
    """How pictures are searched by their features, or by the whole update where the batch cannot be separated.

    Pixels are in [0, 1]; learning rates are in pixel values a step of Adam.

    Args:
        learning_rates: Of the first step of each stage. Five stages were chosen over three on the published batch:
            twenty more steps as another stage gained up to 2.6 dB there.
        feature_floors: What features may be off by in each stage, relative to their standard deviation; as many as
            there are learning rates.
        restored_learning_rate: Of `unveil+`'s stage behind the restorer; a second such stage lost decibels.
        restored_feature_floor: Of the same stage.
        matched_learning_rate: Where updates are matched.
        final_divisor: A cosine takes each learning rate down to itself divided by this; at least 1.
        adam_memory: Decay of Adam's mean square of the gradient a step, in (0, 1). Torch's 0.999 remembers longer than
            a stage lasts.
        settled: A stage ends where its loss changes by less than this share of itself in 25 steps.
        outside_price: Price of leaving [0, 1], in nats for a squared pixel value; the pictures themselves are clamped.
        noisy_weight: Share of the smoothness that is kept where features are nothing but noise, in (0, 1]; see
            `noise_adapted_weight`. Values between 0 and 0.4 were compared.
        noise_response: How soon the smoothness falls with noise: half of the way at a noise of 1 / `noise_response`, in
            units of the features' variance.
        reference_sensitivity: Mean squared slope of LeNet's features in one pixel at 128 px, in units of their
            variance. Measured, not chosen: networks like it keep the smoothness as it is.
        sensitivity_exponent: The smoothness is multiplied by this power of the sensitivity relative to the reference.
            Chosen between two networks, LeNet and the paper's ResNet-18, whose best smoothness is about a third at a
            fifteenth of the sensitivity.
        colour_weight: How much more a slope of colour costs than one of light; see `ColourVariation`.
        edge_softness: Squared slope below which the total variation is quadratic, in squared pixel values.
        least_error: Features are not taken to be surer than this, relative to their standard deviation, where their fit
            is judged.
        matched_divisor: The smoothness is divided by this where updates are matched, and the mean over pixels is taken.
        start_divisor: The starts that are tried where updates are matched share the steps divided by this.

    Raises:
        UsageError: A value outside its range, or another number of floors than of learning rates.
    """

    learning_rates: tuple[float, ...] = (0.03, 0.025, 0.02, 0.015, 0.01)
    feature_floors: tuple[float, ...] = (0.2, 0.1, 0.05, 0.05, 0.05)
    restored_learning_rate: float = 0.005
    restored_feature_floor: float = 0.05
    matched_learning_rate: float = 0.02
    final_divisor: float = 10
    adam_memory: float = 0.99
    settled: float = 1e-3
    outside_price: float = 1e3
    noisy_weight: float = 0.3
    noise_response: float = 20
    reference_sensitivity: float = 10.9
    sensitivity_exponent: float = 1 / 3
    colour_weight: float = 5.0
    edge_softness: float = 1e-5
    least_error: float = 1e-4
    matched_divisor: float = 100
    start_divisor: int = 5

    def __post_init__(self) -> None:
        who = "SearchTuning"
        if len(self.learning_rates) != len(self.feature_floors) or not self.learning_rates:
            raise UsageError(
                f"{who}: expected as many feature_floors as learning_rates, got {len(self.feature_floors)} and "
                f"{len(self.learning_rates)}; give each stage one of both"
            )
        for name in ("learning_rates", "feature_floors"):
            for value in getattr(self, name):
                positive(who, name, value, HINT)
        for name in (
            "restored_learning_rate",
            "restored_feature_floor",
            "matched_learning_rate",
            "reference_sensitivity",
            "colour_weight",
            "edge_softness",
            "least_error",
            "matched_divisor",
        ):
            positive(who, name, getattr(self, name), HINT)
        for name in ("settled", "outside_price", "noise_response", "sensitivity_exponent"):
            not_negative(who, name, getattr(self, name), HINT)
        share(who, "noisy_weight", self.noisy_weight, HINT)
        if not 0 < self.adam_memory < 1:
            raise UsageError(f"{who}: expected 0 < adam_memory < 1, got {self.adam_memory:g}; {HINT}")
        if not self.final_divisor >= 1:
            raise UsageError(f"{who}: expected final_divisor >= 1, got {self.final_divisor:g}; {HINT}")
        whole(who, "start_divisor", self.start_divisor, 1, 1_000_000, HINT)

    __str__ = changes_of
