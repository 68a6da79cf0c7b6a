"""The constants of unveil's own attack, as values that Python code can set and a benchmark can change.

Unless a field says otherwise, its value was chosen by hand on the published batch (16 pictures of 128 px, LeNet), while
the attack was written. Alternatives were compared, but no record of them was kept. No field was fitted on other
pictures. `python -m benchmarks run tuning` halves and doubles each field on pictures that were not used for the choice;
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
    """Constants of the factorisation of a Linear layer's gradient into errors and features. No field has a unit.

    Args:
        first_ridge: Ridge of the solves before there are pictures, relative to the mean eigenvalue of the equations;
            more than 0. At that time the errors are inexact, and those of images of one class are nearly parallel.
        reread_ridge: The same ridge while ReLU patterns are read from the update without pictures; more than 0.
        first_rounds: Number of alternations of errors and features before the first pictures, 0 to 1000.
        reread_rounds: Number of times that ReLU patterns are then read from the update, 0 to 1000; the reading ends
            when the patterns explain no more of the update.
        drive_log_odds: Log-odds that a unit is open if its pre-activation is one standard deviation above zero, before
            the update is read; at least 0. With a larger value the guess counts more, compared with the update.
        weak_equation: Ratio of an equation's eigenvalue to the mean one below which the equation determines nothing;
            in (0, 1].
        pattern_tries: Number of random ReLU patterns at which the search for images of one class starts, 1 to
            1,000,000.
        pattern_rounds: Number of times that the patterns are projected and rounded at most, 1 to 1,000,000.
        fewest_open: Patterns with a smaller share of open units are not used, because they fit any update; in (0, 1].
        same_pattern: Share of equal units from which on two patterns count as the same one; in (0, 1].

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
class ClosedGatesTuning:
    """Constants of the search for the errors of images by closed gates, behind a trained head. No field has a unit.

    They were chosen on six batches of 16 pictures of CIFAR-10 behind a LeNet trained on CIFAR-10.

    Args:
        explained: Share of the gradient that another separation may leave unexplained without being replaced, in
            (0, 1].
        worth: The search runs where another separation leaves this many times more unexplained than any could, at
            least 1.
        space_rounds: Number of times that a random start is multiplied by the gradient and its transpose, to find the
            space of its columns, 0 to 1000. With noise 6 were better than 2.
        tries: Number of random vectors at which the search starts, besides one for each output of the layer, 1 to
            1,000,000.
        rounds: Number of times that vectors are made sparse, and then made errors of a head at most, 1 to 1,000,000.
        threshold: Entries that count as 0 when a vector is made sparse, in units of the root mean square of its
            entries; more than 0.
        most_off: Distance from the space up to which a row is kept, in units of its length; in (0, 1]. Rows beyond it
            were mostly wrong.
        same_row: Cosine from which on two rows count as the same one; in (0, 1]. The true rows of two images have a
            cosine of 0.69 at most.
        row_trust: Standard deviation of a row's own errors at its right length, in units of its distance from the
            space; more than 0.
        first_size_spread: Standard deviation of the logarithm of an image's feature size, by which the features of
            synthetic pictures are taken for a guide; more than 0.
        size_spread: The same about the median of the batch; more than 0. It was 0.2 to 0.3 on CIFAR-10.
        floors: The feature floors of the search are multiplied by this where an exact update was separated by closed
            gates, at least 1; see `SearchTuning`. Trained features say less of a pixel, so the search converges later.
        noisy_floors: The same for an update that is not exact, at least 1; errors of the rows mix the images.
        ridge: Ridge of the solve for the features, relative to the mean eigenvalue of the equations; more than 0.

    Raises:
        UsageError: A value outside its range.
    """

    explained: float = 1e-3
    worth: float = 1.05
    space_rounds: int = 6
    tries: int = 500
    rounds: int = 60
    threshold: float = 0.3
    most_off: float = 0.33
    same_row: float = 0.75
    row_trust: float = 2.0
    first_size_spread: float = 0.5
    size_spread: float = 0.3
    floors: float = 3.0
    noisy_floors: float = 6.0
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        who = "ClosedGatesTuning"
        for name in ("threshold", "row_trust", "first_size_spread", "size_spread", "ridge"):
            positive(who, name, getattr(self, name), HINT)
        for name in ("explained", "most_off", "same_row"):
            share(who, name, getattr(self, name), HINT)
        for name in ("worth", "floors", "noisy_floors"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{who}: expected {name} >= 1, got {getattr(self, name):g}; {HINT}")
        whole(who, "space_rounds", self.space_rounds, 0, 1000, HINT)
        for name in ("tries", "rounds"):
            whole(who, name, getattr(self, name), 1, 1_000_000, HINT)

    __str__ = changes_of


@dataclass(frozen=True, kw_only=True)
class SearchTuning:
    """Constants of the search for pictures by their features, or by the update if the batch cannot be separated.

    Pixel values are in [0, 1]; learning rates are in pixel values a step of Adam, and more than 0.

    Args:
        learning_rates: Learning rate of the first step of each stage. On the published batch five stages were better
            than three: twenty more steps as another stage gained up to 2.6 dB.
        feature_floors: Standard deviation of the features' errors that each stage assumes besides, relative to that of
            the features; more than 0. There are as many floors as learning rates.
        restored_learning_rate: Learning rate of the stage of `unveil+` after the restorer; a second such stage lowered
            the PSNR.
        restored_feature_floor: Floor of the same stage; more than 0.
        matched_learning_rate: Learning rate if updates are matched.
        final_divisor: A cosine lowers each learning rate to itself divided by this; at least 1.
        adam_memory: Share of the running mean of the squared gradient that each step of Adam keeps, in (0, 1). With
            torch's 0.999 this mean covers more steps than a stage has.
        settled: Relative change of the loss over 25 steps below which a stage ends; at least 0.
        outside_price: Cost of a pixel outside [0, 1], in nats for a squared pixel value; at least 0. The pictures
            themselves are clamped.
        noisy_weight: Share of the smoothness that is used if the features are noise alone, in (0, 1]; see
            `noise_adapted_weight`. Values from 0 to 0.4 were compared.
        noise_response: Inverse of the noise, in units of the features' variance, at which the smoothness is halfway
            between its values for exact and for noisy features; at least 0.
        reference_sensitivity: Mean squared slope of LeNet's features with respect to one pixel at 128 px, in units of
            the features' variance; more than 0. It was measured, not chosen; a network with this slope keeps the
            smoothness.
        sensitivity_exponent: The smoothness is multiplied by this power of a network's mean squared slope relative to
            the reference; at least 0. It was chosen on LeNet and the paper's ResNet-18, whose slope is a fifteenth of
            LeNet's, and whose best smoothness is about a third.
        colour_weight: Ratio of the cost of a slope of colour to that of light, more than 0; see `ColourVariation`.
        edge_softness: Squared slope below which the total variation is quadratic, in squared pixel values; more than 0.
        least_error: Smallest standard deviation of a feature's error in `FeatureFit.chi_squared`, relative to that of
            the features; more than 0.
        matched_divisor: The smoothness is divided by this if updates are matched; more than 0. The regulariser is then
            a mean over the pixels.
        start_divisor: The starts that are tried if updates are matched take the steps divided by this; at least 1.

    Raises:
        UsageError: A value outside its range, or a number of floors that differs from that of learning rates.
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
