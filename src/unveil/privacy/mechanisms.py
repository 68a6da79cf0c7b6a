"""What in a local training and an obfuscation makes an update differentially private, or fails to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unveil.core.clipping import ClipsExamples, ExampleClipping
from unveil.core.guarantees import Unit
from unveil.core.protocols import LocalTraining, NeedsClient, Obfuscation, SendsBuffers
from unveil.obfuscations.roles import (
    AddsGaussian,
    Bounding,
    BoundsEntries,
    ChoosesByChance,
    Encoder,
    Mapped,
    Moving,
    Noise,
    Rescaler,
    Signs,
    Sparsifier,
    Withholding,
    atoms,
)

UNBOUNDED = (
    "Noise without clipping guarantees nothing: nothing bounds how far one picture moves the update, so that no noise "
    "is large enough for every picture."
)
BARE = "Clipping without noise guarantees nothing: the update is still a function of the pictures."
NOTHING = "Nothing is clipped and no noise is added, so that the update is a function of the pictures."
RELATIVE = (
    "The size of the noise is computed from the update, so that it depends on the pictures: a bound on the update does "
    "not bound what they do to the noise."
)
LAPLACE = (
    "The noise is not Gaussian: Laplace noise hides what is bounded in L1 norm, and clipping bounds the L2 norm, "
    "which for a network of d parameters leaves the square root of d times as much."
)
ENTRIES = (
    "Entries are clamped one by one, which does not bound the update as a whole: what each entry that is sent gives "
    "away adds up over thousands of them, and nothing is stated for that."
)
CHOSEN = "Which entries are sent depends on the pictures and travels without noise."
UNKNOWN = (
    "A stage before the noise does not say whether it sends every entry: which ones are sent may depend on the "
    "pictures, and would travel without noise."
)
BETWEEN = "Between clipping and noise stands another stage, which may make the update longer than the clipping norm."
AGAIN = "A stage behind the noise looks at the pictures again."
BUFFERS = "The network's buffers are sent too, and nothing clips or hides what the pictures did to them."
SENDS_ALL = (Moving, Rescaler, Mapped, Signs, Encoder)
"""Roles of stages that change values; a sparsifier is told by its own role."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Clipped Gaussian noise, or why there is none that counts.

    Args:
        unit: Whose contribution is clipped.
        reason: Why it guarantees nothing; empty if it does.
        clip: Largest L2 norm of the unit's contribution; None if nothing bounds it.
        noise: Standard deviation of the noise on the same scale; 0 for none that counts.
        releases: Number of noisy releases in one update that the unit is in.
        is_fixed: One unit more leaves all else as it is: what the sum is divided by is a setting.
        mini_batches: A step takes only some of the examples.
    """

    unit: Unit
    reason: str = ""
    clip: float | None = None
    noise: float = 0.0
    releases: int = 1
    is_fixed: bool = False
    mini_batches: bool = False


def mechanisms(training: LocalTraining, obfuscation: Obfuscation, pictures: int) -> list[Mechanism]:
    """Return what protects one example and one client, or else why neither is protected; nothing where nobody tries to.

    Args:
        training: The local training.
        obfuscation: The obfuscation.
        pictures: Number of pictures in the update.
    """
    # Which tensors are sent at all is fixed beforehand: what holds of the whole update holds of a part of it.
    stages = [stage for stage in atoms([obfuscation]) if not isinstance(stage, Withholding)]
    buffers = training.buffers if isinstance(training, SendsBuffers) else "kept"
    clipping = training.clipping(pictures) if isinstance(training, ClipsExamples) else None
    # Noise right behind the mean of clipped gradients is noise on their sum.
    added = _sigma(stages[0]) if stages and clipping is not None and clipping.is_sent else 0.0
    example = None if clipping is None else _of_examples(clipping, added, stages, buffers)
    client = None if added else _of_clients(stages, buffers)
    found = [mechanism for mechanism in (example, client) if mechanism is not None]
    return [mechanism for mechanism in found if not mechanism.reason] or found[-1:]


def bounded(mechanism: Mechanism, update_clip: float) -> Mechanism:
    """Return the mechanism of a client with a bound on everything together that it sends, buffers included."""
    if mechanism.unit != "client" or mechanism.clip is None:
        return mechanism
    return replace(mechanism, clip=update_clip, releases=1)


def _of_examples(clipping: ExampleClipping, added: float, stages: Sequence[Obfuscation], buffers: str) -> Mechanism:
    """DP-SGD: clipped gradients of single examples, with noise on their sum."""
    noise = math.hypot(clipping.multiplier * clipping.norm, added * clipping.divisor)
    reason = ""
    if not noise:
        reason = BARE
    elif any(isinstance(stage, NeedsClient) for stage in stages):
        reason = AGAIN
    elif buffers != "kept":
        reason = BUFFERS
    return Mechanism(
        unit="example",
        reason=reason,
        clip=clipping.norm,
        noise=noise,
        releases=clipping.releases,
        is_fixed=clipping.is_fixed,
        mini_batches=clipping.mini_batches,
    )


def _of_clients(stages: Sequence[Obfuscation], buffers: str) -> Mechanism | None:
    """Clipping of the whole update with noise right behind it; None where there is neither."""
    noisy = [at for at, stage in enumerate(stages) if isinstance(stage, Noise)]
    bounds = [at for at, stage in enumerate(stages) if isinstance(stage, Bounding)]
    if not noisy:
        return Mechanism(unit="client", reason=BARE) if bounds else None
    pairs = [_clipped_noise(stages, at, buffers) for at in noisy if at - 1 in bounds and _sigma(stages[at])]
    if not pairs:
        return Mechanism(unit="client", reason=_missing(stages, noisy, bounds))
    # Each pair guarantees what it does by itself, whatever stands before and behind it.
    return min(pairs, key=lambda pair: math.inf if pair.reason else (pair.clip or 0.0) / pair.noise)


def _clipped_noise(stages: Sequence[Obfuscation], at: int, buffers: str) -> Mechanism:
    """Noise of stage `at` right behind a bound on the whole update."""
    bound = stages[at - 1]
    assert isinstance(bound, Bounding)
    reason = ""
    if any(_chooses(stage) for stage in stages[:at]):
        reason = CHOSEN
    elif not all(isinstance(stage, (*SENDS_ALL, ChoosesByChance)) for stage in stages[: at - 1]):
        reason = UNKNOWN
    elif any(isinstance(stage, NeedsClient) for stage in stages[at:]):
        reason = AGAIN
    elif buffers == "sent":
        reason = BUFFERS
    # Buffers that are obfuscated go through the same stages as an update of their own.
    releases = 2 if buffers == "obfuscated" else 1
    return Mechanism(unit="client", reason=reason, clip=bound.largest_norm, noise=_sigma(stages[at]), releases=releases)


def _missing(stages: Sequence[Obfuscation], noisy: Sequence[int], bounds: Sequence[int]) -> str:
    """Return why no noise stands right behind a bound on the whole update."""
    if not bounds or min(bounds) > max(noisy):
        is_clamped = any(isinstance(stage, BoundsEntries) for stage in stages[: max(noisy)])
        return ENTRIES if is_clamped else UNBOUNDED
    behind = [stages[at] for at in noisy if at > min(bounds)]
    if not any(isinstance(stage, AddsGaussian) for stage in behind):
        return LAPLACE
    return BETWEEN if any(_sigma(stage) for stage in behind) else RELATIVE


def _sigma(stage: Obfuscation) -> float:
    """Return the standard deviation of a stage's Gaussian noise; 0 if it adds none of a size that a setting says."""
    return (stage.gaussian_sigma or 0.0) if isinstance(stage, AddsGaussian) else 0.0


def _chooses(stage: Obfuscation) -> bool:
    """Return whether a stage chooses by the values which entries are sent."""
    by_chance = isinstance(stage, ChoosesByChance) and stage.chooses_by_chance
    return isinstance(stage, Sparsifier) and not by_chance
